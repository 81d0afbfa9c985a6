"""How arrays and computation are split over devices: the mesh and its rules, dense layers, embedding, attention kernels."""
