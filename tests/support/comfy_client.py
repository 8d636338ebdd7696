"""Talking to a ComfyUI server as a page or a script does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import requests

_SECONDS = 120


class Client:
    """Queue prompts and read what they gave."""

    def __init__(self, url: str, base: Path) -> None:
        self.url = url
        self.base = base

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=30, **options)

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        return requests.post(self.url + path, json=body, headers=headers, timeout=30)

    def object_info(self, node: str) -> dict[str, Any]:
        return self.get(f"/object_info/{node}").json()[node]

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt that is valid in every node, and return its id."""
        answer = self.post("/prompt", {"prompt": prompt})
        found = answer.json()
        assert answer.status_code == 200, found
        assert not found.get("node_errors"), found
        return str(found["prompt_id"])

    def refused(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt that validation refuses, and return the words of the refusal."""
        answer = self.post("/prompt", {"prompt": prompt})
        assert answer.status_code == 400, answer.text
        errors = answer.json()["node_errors"]
        return "\n".join(e["details"] for node in errors.values() for e in node["errors"])

    def wait(self, prompt_id: str) -> dict[str, Any]:
        """Return a prompt's history entry once it is done."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            found = self.get(f"/history/{prompt_id}").json()
            if prompt_id in found:
                return dict(found[prompt_id])
            time.sleep(0.05)
        raise AssertionError(f"prompt {prompt_id} did not end within {_SECONDS} s")

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Run a prompt that has to succeed, and return its outputs by node."""
        entry = self.wait(self.queue(prompt))
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
        return dict(entry["outputs"])

    def fails(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Run a prompt that has to fail, and return what the page is told of the error."""
        entry = self.wait(self.queue(prompt))
        assert entry["status"]["status_str"] == "error", entry["status"]
        return next(dict(data) for kind, data in entry["status"]["messages"] if kind == "execution_error")

    def executed(self, prompt: dict[str, Any]) -> set[str]:
        """Run a prompt and return the nodes that were carried out and not taken from the cache."""
        entry = self.wait(self.queue(prompt))
        messages = dict(entry["status"]["messages"])
        assert "execution_success" in messages, messages
        return set(prompt) - set(messages["execution_cached"]["nodes"])

    def free(self) -> None:
        """Let ComfyUI forget its cached results and every model, and wait until it has."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        deadline = time.monotonic() + 10
        while self.get("/managed-models/status").json()["memory"]["models"]:
            assert time.monotonic() < deadline, "models stay in memory"
            time.sleep(0.05)

    def latent(self, name: str) -> Any:
        """Return the newest latent that SaveLatent wrote under this name, a float32 tensor."""
        from safetensors.torch import load_file

        files = sorted((self.base / "output").glob(f"{name}_*.latent"))
        assert files, f"no latent {name}"
        return load_file(files[-1])["latent_tensor"].float()


def reports(outputs: dict[str, Any], node: str) -> str:
    """Return the report that a node put on itself."""
    return str(outputs[node]["managed_models_report"][0])


def sampler(model: list[Any], name: str, latent: str = "latent", text: str = "text") -> dict[str, Any]:
    """Two Euler steps at CFG 1 from ``model``; nodes ``<name>`` and ``save_<name>``."""
    return {
        name: {
            "class_type": "KSampler",
            "inputs": {
                "model": model,
                "seed": 1,
                "steps": 2,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "positive": [text, 0],
                "negative": [text, 0],
                "latent_image": [latent, 0],
                "denoise": 1.0,
            },
        },
        f"save_{name}": {
            "class_type": "SaveLatent",
            "inputs": {"samples": [name, 0], "filename_prefix": name},
        },
    }


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


# What a sampler needs besides a model, by architecture.
SURROUNDINGS: dict[str, dict[str, Any]] = {
    "wan": {
        "latent": node("EmptyHunyuanLatentVideo", width=128, height=128, length=5, batch_size=1),
        "text": node("EmptyTextConditioning", width=4096, tokens=8, pooled_width=0),
    },
    "flux": {
        "latent": node("EmptySD3LatentImage", width=128, height=128, batch_size=1),
        "text": node("EmptyTextConditioning", width=64, tokens=8, pooled_width=32),
    },
    "sd15": {
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "text": node("EmptyTextConditioning", width=768, tokens=8, pooled_width=0),
    },
}


def relative_l2(found: Any, reference: Any) -> float:
    """Return the relative L2 distance of two tensors."""
    return float((found - reference).norm() / reference.norm())


def api_prompt(workflow: dict[str, Any], client: Client) -> dict[str, Any]:
    """Turn a workflow of the page into a prompt, as the page does when Run is pressed."""
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    prompt: dict[str, Any] = {}
    for item in workflow["nodes"]:
        if item["type"] in ("MarkdownNote", "Note"):
            continue
        inputs: dict[str, Any] = {}
        values = iter(item.get("widgets_values", []))
        for entry in item["inputs"]:
            name = entry["name"]
            if "widget" in entry:
                inputs[name] = next(values)
                if name == "seed":
                    next(values)  # control_after_generate
            if entry.get("link") is not None:
                inputs[name] = list(links[entry["link"]])
        prompt[str(item["id"])] = node(item["type"], **inputs)
    return prompt
