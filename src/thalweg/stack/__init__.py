"""How K members take a step: stacked under `torch.func`, or one by one."""
