"""The words of answers, each from the JSON-safe details of one."""
