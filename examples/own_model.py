"""A model of one's own, trained by `fit`, scored by `evaluate` and compared with VMA on the same targets, in a minute.

It reads the average of its memory, where VMA looks up one entry. Any module with these three methods is a `vma.Model`.
"""

import sys

import torch
from torch import nn

import vma
from vma.data import load
from vma.data.episodes import Episodes, EpisodeSpec
from vma.networks import draw_images, log_bernoulli, log_normal, split_gaussian
from vma.statistics import clustered_stderr


class AverageMemory(nn.Module):
    """p(z) = N(0, I), q(z|x), and p(x|z, M) with what the decoder makes of an entry averaged over memory."""

    def __init__(self, sizes: vma.ConvSizes) -> None:
        super().__init__()
        self.latent = sizes.latent
        self.posterior = sizes.encoder(sizes.image, 2 * sizes.latent)
        self.pyramid, self.conditioner = sizes.pyramid(sizes.image), sizes.conditioner(sizes.image)
        self.decoder = sizes.decoder(pixel_mean=0.2, conditioned=True)

    def encode_memory(self, memory):  # (M, 1, H, W) -> whatever the two methods below want to have
        return [condition.mean(0, keepdim=True) for condition in self.conditioner(self.pyramid(memory))]

    def decode(self, z, encoded):  # (N, Z) -> logits (N, 1, H, W)
        return self.decoder(z, [condition.expand(len(z), *condition.shape[1:]) for condition in encoded])

    def forward(self, x, encoded, num_samples, *, generator=None, chunk=None):
        mean, log_std = split_gaussian(self.posterior(x))
        z = mean + log_std.exp() * torch.randn(num_samples, *mean.shape, generator=generator)  # (K, B, Z)
        logits = self.decode(z.flatten(0, 1), encoded).unflatten(0, z.shape[:2])
        log_pz, log_qz = log_normal(z, z * 0, z * 0), log_normal(z, mean.expand_as(z), log_std.expand_as(z))
        none = torch.zeros_like(log_pz)  # there is no address
        return vma.Terms(log_bernoulli(x, logits), log_pz - log_qz, log_pa=none, log_qa=none, kl_a=none[0])

    def sample(self, encoded, n, *, generator=None):
        return draw_images(self.decode(torch.randn(n, self.latent, generator=generator), encoded), None, generator)


def main(updates: int = 200) -> None:
    torch.manual_seed(0)
    sizes = vma.ConvSizes(image=(1, 12, 12), widths=(16,) * 6, hidden=64, latent=16, embedding=32)
    data = load("strokes", image_size=12)  # characters that are built in
    spec = EpisodeSpec(classes=8, targets_per_class=4, shots=4)
    train, test = Episodes(data.train, spec, seed=0), Episodes(data.test, spec, seed=0)
    scores = {}
    for model, objective in (
        (AverageMemory(sizes), vma.iwae),
        (vma.VariationalMemoryAddressing(sizes, pixel_mean=0.2), vma.vimco),
    ):
        name, optimizer = type(model).__name__, torch.optim.Adam(model.parameters(), lr=1e-3)
        for update, terms in vma.fit(model, train, objective, optimizer, num_samples=4, updates=range(updates)):
            if (update + 1) % 100 == 0:
                print(f"{name}, update {update + 1}: bound {vma.iwae(terms).mean():.1f} nats")
        scores[name] = vma.evaluate(model, test, range(20), num_samples=20)
        print("{}: test NLL {:.2f} +- {:.2f} nats".format(name, *scores[name].summary("nll", by_class=True)))
    own, other = scores.values()
    difference = other.nll - own.nll  # of the same targets, one by one
    print(f"VMA minus ours: {difference.mean():+.2f} +- {clustered_stderr(difference, own.x_class):.2f} nats")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
