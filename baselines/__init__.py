"""The paper's baselines on the networks of `vma`: a plain VAE and a memory VAE with soft attention (section 4.2)."""

from baselines.soft_attention import SoftAttentionVAE
from baselines.vae import PlainVAE

__all__ = ["PlainVAE", "SoftAttentionVAE"]
