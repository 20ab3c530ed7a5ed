"""One thread for torch, as in job processes: several test processes may share few cores."""

import torch

torch.set_num_threads(1)
