"""What a workflow needs: which of its models are here, which are missing, and where those can be had."""
