"""Drop-ins for existing repositories, one module each: their names, signatures and random draws, our engine.

amazon : the samplers of amazon-science/patchcore-inspection, open-iad and many forks.
ader : those of ADer, which take no device.
anomalib : `KCenterGreedy` of anomalib 2.0 to 2.7, with patch() and unpatch().
softpatch : the samplers of SoftPatch, whose run() returns (features, indices), with weights.
indad : `get_coreset_idx_randomp` of ind_knn_ad, M3DM and BTF-style repositories.
active_learning : `kCenterGreedy` of google/active-learning and the PatchCore repositories that copied it.
deepcore : `k_center_greedy` of DeepCore.

The shims draw from the global generators of torch and NumPy where their peers do, in the same order. Where a result
differs from the peer's, and why: docs/drop-ins.md.
"""
