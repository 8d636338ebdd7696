"""The one door for Python: a thin object over the services, with no logic of its own."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .check_options import CheckOptions
from .cleanup import CleanupTask
from .config import ModelManagerConfig, parse_duration
from .errors import BadInput, HostBusy, ManagedModelsError, ModelNotFound
from .files import find_stale_temporaries
from .host import DEFAULT, Host, LoadedParts, ModelFile
from .lazily import was_made
from .library import is_storable
from .load_options import WARN
from .memory import UnloadResult, memory_report, unload
from .model import ModelInfo
from .registry import Registry
from .remote.address import is_address
from .services import Services, in_bytes
from .sharing import NOT_HERE, Sharing

if TYPE_CHECKING:
    from .compatibility import CompatibilityReport
    from .scan.service import ScanResult

log = logging.getLogger("managed_models.manager")
_SWEEP_SECONDS = 3600.0
CHANGEABLE = frozenset(
    {
        "auto_download",
        "keep_alive",
        "max_parallel_downloads",
        "max_ram_gb",
        "share_stock_loaders",
        "vram_reserve_gb",
    }
)


class AdvancedModelManager(Services):
    """Know, check, load, quantize and unload the models of this machine.

    Every method is plain: it works with and without a running event loop, from any thread.

    Args:
        config: settings; defaults when None. The registry is in memory unless ``database_url`` says.
        host: the machine; the bare one, with ``config.model_roots``, when None.
        registry: what is known; the one at ``config.database_url`` when None.
        defer: runs registry writes that nobody waits for; at once by default.
    """

    def __init__(
        self,
        config: ModelManagerConfig | None = None,
        host: Host | None = None,
        registry: Registry | None = None,
        defer: Callable[[Callable[[], None]], None] = lambda write: write(),
    ) -> None:
        super().__init__(config or ModelManagerConfig(), host, registry, defer)
        self._cleanup = CleanupTask(self._clean, self.config.cleanup_interval_seconds)
        self._next_sweep = 0.0
        # ComfyUI's adapter puts its own in place.
        self.apply_sharing: Callable[[str], Sharing] = lambda setting: NOT_HERE
        self.sharing = NOT_HERE

    def change_settings(self, **changes: Any) -> None:
        """Change settings of memory while running: fields of the config by name.

        Raises:
            BadInput: no such setting can be changed, or not to that value; nothing was changed then.
        """
        unknown = sorted(changes.keys() - CHANGEABLE)
        if unknown:
            raise BadInput(
                f"{unknown[0]} cannot be changed.", f"What can be: {', '.join(sorted(CHANGEABLE))}."
            )
        self.config = dataclasses.replace(self.config, **changes)
        self.pool.configure(
            parse_duration(self.config.keep_alive),
            in_bytes(self.config.max_ram_gb),
            in_bytes(self.config.vram_reserve_gb),
        )
        self.sharing = self.apply_sharing(self.config.share_stock_loaders)

    def close(self) -> None:
        """Stop the cleanup task and give the registry's file back."""
        self.stop_cleanup_task()
        for name in ("downloads", "verifier"):
            if was_made(self, name):
                getattr(self, name).close()
        self.keeper.stop()
        self.monitor.stop()
        self.registry.close()

    # What people say about models

    def register_model(self, info: ModelInfo) -> list[str]:
        """Record one version of a model and return what speaks against it; never raises for that.

        The file may not exist yet. The first version of a name becomes its active one.
        """
        from .versions import is_version

        issues: list[str] = []
        if not is_version(info.version):
            issues.append(
                f"Version {info.version!r} is neither one of PEP 440 nor a semantic one, "
                "so it sorts before every other."
            )
        self.registry.put(info)
        issues += self.checker.report(info).issues
        for issue in issues:
            log.warning("%s %s: %s", info.name, info.version, issue)
        return issues

    def unregister_model(self, name: str) -> bool:
        """Forget a name with all its versions; the files stay. False when it was unknown."""
        return self.registry.remove(name)

    def get_model(self, name: str) -> ModelInfo | None:
        """Return the active version of a registered model, or None."""
        return self.registry.get(name)

    def list_models(self) -> list[ModelInfo]:
        """Return the active version of every registered model, by name."""
        found = [self.registry.get(name) for name in self.registry.names()]
        return [info for info in found if info is not None]

    # Versions

    def get_model_version(self, name: str) -> str | None:
        """Return the active version: the first registered, until it was changed."""
        return self.registry.active_version(name)

    def set_active_version(self, name: str, version: str) -> None:
        """Make ``version``, or the one that an alias means, the one that is meant when none is named.

        Raises:
            ModelNotFound: there is no such version.
        """
        self.versioning.set_active(name, version)

    def get_latest_model_version(self, name: str) -> str | None:
        """Return the newest version; a pre-release only when there is nothing else."""
        return self.versions.get_latest_version(name)

    def get_all_model_versions(self, name: str) -> list[str]:
        """Return every version in ascending order."""
        return self.versions.get_all_versions(name)

    def suggest_model_upgrade(self, name: str) -> str | None:
        """Return a newer version than the active one that nothing here blocks, or None.

        It is of the same base model and variant; see :meth:`upgrade_details` for what was passed over.
        """
        return self.versioning.suggest(name)

    def upgrade_details(self, name: str) -> dict[str, Any]:
        """Return the version to upgrade to, whether this machine can run it, and what was passed over.

        Raises:
            ModelNotFound: nothing of that name is registered.
        """
        return self.versioning.upgrade_details(name)

    def set_alias(self, name: str, alias: str, version: str | None = None) -> str:
        """Let a word such as ``stable`` mean one version, the active one when None; return that version.

        Raises:
            BadInput: ``alias`` is a version, a specifier or ``latest``.
            ModelNotFound: there is no such model or version.
        """
        return self.versioning.set_alias(name, alias, version)

    def aliases(self, name: str) -> dict[str, str]:
        """Return every alias of a model with the version that it means; empty for an unknown name."""
        return self.versioning.aliases(name)

    def upgrade(self, name: str) -> str | None:
        """Make the suggested version the active one and return it; None when there is none."""
        newest = self.suggest_model_upgrade(name)
        if newest is not None:
            self.set_active_version(name, newest)
        return newest

    # Judging

    def check_model_compatibility(self, name: str) -> tuple[bool, list[str]]:
        """Return whether nothing blocks the model here, and every finding in words.

        An address is no name: :meth:`check` takes one.
        """
        try:
            report = self._check_here(name, None)
        except (ModelNotFound, BadInput):
            return False, [f"Model {name!r} is not registered"]
        except ManagedModelsError as error:
            return False, [str(error)]
        return report.compatible, report.issues

    def check(
        self, reference: str, options: CheckOptions | None = None, allow_local_network: bool = False
    ) -> CompatibilityReport:
        """Return the full verdict on a registered name, a file of the model folders, a path, or an address.

        Args:
            reference: of an address (``https://``, ``hf:owner/repository/path[@revision]``) only the
                header is fetched.
            options: what it is wanted for.
            allow_local_network: also ask addresses of plain http and of this machine's own network.

        Raises:
            ModelNotFound: there is no such model.
            RemoteError: the address cannot be read.
        """
        if is_address(reference):
            return self.addresses.check(reference, options, allow_local_network)
        return self._check_here(reference, options)

    def _check_here(self, reference: str, options: CheckOptions | None) -> CompatibilityReport:
        info = self.registry.get(reference) if is_storable(reference) else None
        if info is not None:
            report = self.checker.report(info)
            return self.checking.extend(report, info.file_path, options or CheckOptions())
        path = self.library.find_path(reference)
        return self.check_file(ModelFile(self._folder_of(path), path.name, path), options)

    def pair(self, model: str, others: Sequence[str]) -> dict[str, Any]:
        """Return whether files belong together, from their headers; ``report.render_pair`` gives words.

        Args:
            model: a registered name, a file of the model folders, or a path.
            others: the same, of at least one VAE, text encoder, LoRA, ControlNet or second model.

        Raises:
            BadInput: there is nothing to compare with.
            ModelNotFound: there is no such file.
        """
        if not others:
            raise BadInput("Only one file was named.", "Name the files that are to go with it, too.")
        return self.pairing.pair(self.library.find_path(model), [self.library.find_path(o) for o in others])

    def get_system_info(self) -> dict[str, Any]:
        """Return versions, memory and GPUs; figures in GB of 1024^3 bytes."""
        return self.checker.get_system_info()

    def validate_model(self, name: str) -> tuple[bool, list[str]]:
        """Return whether the model's file is whole, and what is wrong with it."""
        info = self.registry.get(name)
        path = info.file_path if info else self.library.find_path(name)
        details = self.verify(path)
        return details["ok"], [details["problem"]] if details["problem"] else []

    def verify(self, path: Path, quick: bool = False) -> dict[str, Any]:
        """Return whether a file is whole, and remember it: header, size, checksums, every known hash.

        Args:
            quick: its header and size alone.
        """
        return self.integrity.verify(path, self.host, quick)

    def scan(self, forget_missing: bool = False) -> ScanResult:
        """Look at every model folder, and record what is new, changed, moved, missing or back.

        Args:
            forget_missing: drop what is known of files that are missing, instead of keeping it.
        """
        return self.scanner.scan(self.host, forget_missing)

    def find_duplicates(self, quick: bool = False) -> dict[str, Any]:
        """Return which files of the model folders are equal, and the room that they waste.

        Args:
            quick: read no more than samples: files then *may* be equal.
        """
        return self.duplicates.find([file.path for file in self.library.files()], quick, self.host)

    # Memory

    def load_model(
        self,
        name: str,
        weight_dtype: str = DEFAULT,
        on_misfit: str = WARN,
        version: str = "",
        keep_alive: str | None = None,
        device: str = DEFAULT,
        attention: str = DEFAULT,
    ) -> LoadedParts:
        """Load a registered model, a file of the model folders, or a path; or share what is loaded.

        With ``auto_download`` one that is absent and has an address is fetched first.

        Raises:
            ManagedModelsError: see :meth:`Loader.load`.
        """
        path = self.first_use.find(
            lambda: self.library.find_path(name, version, self.host), name, version=version
        )
        return self.loader.load(
            name, path, weight_dtype, on_misfit, keep_alive=keep_alive, device=device, attention=attention
        ).parts

    def enable_gradient_checkpointing(self, model: Any, enabled: bool = True) -> int:
        """Let a model train in less memory: it computes its blocks again instead of keeping their results.

        What it computes stays the same. Concerns every handle on these weights, until it is turned off.

        Args:
            model: a MODEL, or what :meth:`load_model` returned.

        Returns:
            How many blocks were changed.

        Raises:
            HostRequired, NotAvailable: see :meth:`Host.checkpoint_gradients`.
        """
        return self.host.checkpoint_gradients(
            model.model if isinstance(model, LoadedParts) else model, enabled
        )

    def unload_model(self, name: str, vram_only: bool = False) -> bool:
        """Take a model out of memory; False when it is not there.

        RAM comes back as soon as nobody else has the model: in ComfyUI its cache of outputs may.

        Args:
            vram_only: leave it in RAM, from where it comes back quickly.

        Raises:
            HostBusy: a prompt is running.
        """
        path = self.library.find_path(name)
        found = [model.id for model in self.host.resident() if model.path == path]
        self.unload(found, vram_only)
        return bool(found)

    def unload(self, ids: Iterable[str], vram_only: bool = False) -> UnloadResult:
        """Take models out of memory, by the ids of the memory report.

        Raises:
            HostBusy: a prompt is running.
        """
        return unload(self.host, self.pool, tuple(ids), vram_only)

    def unload_all(self) -> None:
        """Let go of every model and every cached result, once the running prompt is done."""
        self.host.forget_results()
        try:
            self.pool.empty()
        except HostBusy:
            self.keeper.empty()

    def pin_model(self, name: str, pinned: bool = True) -> None:
        """Keep a model in memory, once it is loaded, until it is unpinned or all memory is asked back.

        Raises:
            ModelNotFound: there is no such model.
        """
        self.marks.pin(self.library.find_path(name), pinned)

    def get_memory_report(self, history_seconds: float = 300.0) -> dict[str, Any]:
        """Return what memory holds now and held lately, in bytes; ``report.render_memory`` gives words.

        Args:
            history_seconds: how far to look back; an hour is kept.
        """
        return memory_report(self.host, self.pool, self.monitor, history_seconds)

    # Making and getting files

    def quantize_model(self, name: str, output_name: str = "", **options: Any) -> dict[str, Any]:
        """Make a smaller variant beside the model's file and return the facts about it.

        Args:
            name: a registered name, a file of the model folders, or a path.
            output_name: a plain file name; derived from the source and the format when empty.
            options: fields of :class:`QuantizeRequest`.

        Raises:
            ManagedModelsError: see :meth:`Quantizer.quantize`.
        """
        from .quantize.request import QuantizeRequest

        source = self.library.find_path(name)
        request = QuantizeRequest(**options)
        return self.quantizer.quantize(
            source, self.quantizer.output_path(source, request, output_name), request
        )

    def download_model(self, name: str, progress: Callable[[int, int], None] | None = None) -> Path:
        """Fetch a registered model from its url into its place; one that is there already stays.

        Args:
            progress: called with bytes done and bytes in all.

        Raises:
            ManagedModelsError: see :func:`download_registered`.
        """
        from .download.arrival import download_registered

        return download_registered(self.host, self.registry, self.downloads, name, progress)

    # Housekeeping

    def start_cleanup_task(self) -> None:
        """Begin cleaning up: in the running event loop if there is one, else in a daemon thread."""
        self._cleanup.start()

    def stop_cleanup_task(self) -> None:
        """End cleaning up; nothing happens when it is not running."""
        self._cleanup.stop()

    def _clean(self) -> None:
        """One round: let go of models that rest, remove temporary files that a killed run left behind."""
        self.pool.sweep()
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_SECONDS
        self.downloads.clean()
        for path in find_stale_temporaries(folder.path for folder in self.host.folders()):
            path.unlink(missing_ok=True)
            log.info("Removed %s, which an interrupted run left behind", path)

    def _folder_of(self, path: Path) -> str:
        """Return the type of the model folder that holds ``path``, empty outside them."""
        return next((f.type for f in self.host.folders() if f.path in path.parents), "")
