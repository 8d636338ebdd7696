"""Alembic's script directory. Every script's ``upgrade(op)`` is handed its operations.

There is no ``env.py``, and scripts do not use the global ``alembic.op``: ComfyUI migrates a database
of its own in the same process, and those globals are not safe to share.
"""
