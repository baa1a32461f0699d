"""The foundation: errors, files, signals, processes, seeds, devices, options. It imports nothing else of ours."""
