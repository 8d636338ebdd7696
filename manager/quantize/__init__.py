"""Making a model smaller: what to do with each tensor is decided purely, then carried out in a stream."""
