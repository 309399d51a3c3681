"""The command line: arguments in, a sentence or one JSON object out, exit status 0 only when it is done."""
