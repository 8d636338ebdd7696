"""Files as bytes: headers, the streaming writer, and what a foreign file looks like."""
