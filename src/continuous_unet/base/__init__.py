"""What everything stands on: errors, files, signals, processes, seeds, devices, options."""
