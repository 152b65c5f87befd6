"""The paper's baselines on the networks of `vma`: a plain VAE and a memory VAE with soft attention (section 4.2); and
Generative Matching Networks, which its Table 1 quotes.
"""

from baselines.gmn import GenerativeMatchingNetwork
from baselines.gmn_networks import GMNSizes
from baselines.soft_attention import SoftAttentionVAE
from baselines.vae import PlainVAE

__all__ = ["GMNSizes", "GenerativeMatchingNetwork", "PlainVAE", "SoftAttentionVAE"]
