"""How the processes of one run that torchrun or SLURM started compare, wait, and hear of each other's failures."""
