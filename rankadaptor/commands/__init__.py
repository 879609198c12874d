"""The command line, `python -m rankadaptor`: a file a group of commands. What takes seconds to import is imported in
the command that needs it."""
