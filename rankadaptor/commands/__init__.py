"""The command line, `python -m rankadaptor`: one file per group of commands. What takes seconds to import is
imported in the command that needs it."""
