"""The command line: parse, check, one library call. Torch is imported by a verb when it runs, never to parse."""
