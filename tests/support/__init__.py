"""What the tests share: raw files, machines that nobody here has, and a real ComfyUI."""
