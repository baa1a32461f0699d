"""The page that makes and restores pictures, on this machine or as static files: `cunet app`."""
