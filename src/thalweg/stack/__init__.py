"""How members are stepped: together in a stack under `torch.func`, or one by one."""
