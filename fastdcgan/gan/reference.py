"""The specification: what a DCGAN is, in plain eager PyTorch, to be read from top to bottom with the slides beside it.

Nothing here is fast and nothing here is clever. Everything that is fast elsewhere in this package is held to this file
by tests: same pictures, same losses, same gradients, same weights after a step and after many.

A DCGAN is two networks that learn from each other (Goodfellow et al. 2014; Radford, Metz & Chintala 2016):

* the generator G turns a vector of noise z into a picture;
* the discriminator D looks at a picture and says how sure it is that the picture is real.

D is trained to tell real pictures from G's. G is trained to make D wrong. If neither ever wins for good, G's pictures
come to look like the real ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

# --- The layers -------------------------------------------------------------------------------------------------------
#
# A convolution with kernel k, stride s and padding p makes a side of W pixels into (W - k + 2p)/s + 1.
# A transposed convolution goes the other way: it makes a side of i into (i - 1)s + k - 2p.
#
# With k=4, s=2, p=1 the first halves a side, 64 -> (64 - 4 + 2)/2 + 1 = 32, and the second doubles it,
# 32 -> (32 - 1)2 + 4 - 2 = 64. With k=4, s=1, p=0 the first makes 1 of 4 and the second 4 of 1. A DCGAN needs no more.
#
# Each layer is (in_channels, out_channels, kernel, stride, padding); a kernel that isn't square is (height, width).
Layer = tuple[int, int, int | tuple[int, int], int, int]


# fmt: off
def layers_28() -> tuple[list[Layer], list[Layer]]:
    """The layers of G and D for 28x28 greyscale pictures, as courses draw them for handwritten digits and fashion."""
    generator: list[Layer] = [
        ( 50, 128, 4, 1, 0),  #  50 x  1 x  1 -> 128 x  4 x  4
        (128,  64, 3, 2, 1),  # 128 x  4 x  4 ->  64 x  7 x  7     (4 - 1)2 + 3 - 2 = 7
        ( 64,  32, 4, 2, 1),  #  64 x  7 x  7 ->  32 x 14 x 14
        ( 32,   1, 4, 2, 1),  #  32 x 14 x 14 ->   1 x 28 x 28
    ]
    discriminator: list[Layer] = [
        (  1,  32, 4, 2, 1),  #   1 x 28 x 28 ->  32 x 14 x 14
        ( 32,  64, 4, 2, 1),  #  32 x 14 x 14 ->  64 x  7 x  7
        ( 64, 128, 3, 2, 1),  #  64 x  7 x  7 -> 128 x  4 x  4     (7 - 3 + 2)/2 + 1 = 4
        (128,   1, 4, 1, 0),  # 128 x  4 x  4 ->   1 x  1 x  1
    ]
    return generator, discriminator


def layers_64(channels: int = 3, width: int = 64, latent_dim: int = 100) -> tuple[list[Layer], list[Layer]]:
    """The layers of G and D for 64x64 pictures: the DCGAN of the paper and of the common tutorial."""
    c, w, z = channels, width, latent_dim
    generator: list[Layer] = [
        (    z, w * 8, 4, 1, 0),  # 100 x  1 x  1 -> 512 x  4 x  4
        (w * 8, w * 4, 4, 2, 1),  # 512 x  4 x  4 -> 256 x  8 x  8
        (w * 4, w * 2, 4, 2, 1),  # 256 x  8 x  8 -> 128 x 16 x 16
        (w * 2, w    , 4, 2, 1),  # 128 x 16 x 16 ->  64 x 32 x 32
        (w    , c    , 4, 2, 1),  #  64 x 32 x 32 ->   3 x 64 x 64
    ]
    discriminator: list[Layer] = [
        (c    , w    , 4, 2, 1),  #   3 x 64 x 64 ->  64 x 32 x 32
        (w    , w * 2, 4, 2, 1),  #  64 x 32 x 32 -> 128 x 16 x 16
        (w * 2, w * 4, 4, 2, 1),  # 128 x 16 x 16 -> 256 x  8 x  8
        (w * 4, w * 8, 4, 2, 1),  # 256 x  8 x  8 -> 512 x  4 x  4
        (w * 8,     1, 4, 1, 0),  # 512 x  4 x  4 ->   1 x  1 x  1
    ]
    return generator, discriminator
# fmt: on


def layers_of_size(
    high: int, wide: int, channels: int = 3, width: int = 64, latent_dim: int = 100
) -> tuple[list[Layer], list[Layer]]:
    """The same rule for pictures of other sizes: one layer more for each doubling, and twice the widest width.

    Both sides are halved until the shorter one has 4 to 7 pixels. What is left is the kernel of G's first layer, which
    makes it from one pixel, and of D's last layer, which makes one pixel of it. 96x96 ends at 6x6, 128x64 at 8x4.
    """
    generator: list[Layer] = [(width, channels, 4, 2, 1)]
    discriminator: list[Layer] = [(channels, width, 4, 2, 1)]
    high, wide, features = high // 2, wide // 2, width
    while min(high, wide) > 7:
        generator.insert(0, (features * 2, features, 4, 2, 1))
        discriminator.append((features, features * 2, 4, 2, 1))
        high, wide, features = high // 2, wide // 2, features * 2
    generator.insert(0, (latent_dim, features, (high, wide), 1, 0))
    discriminator.append((features, 1, (high, wide), 1, 0))
    return generator, discriminator


# --- The two networks -------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """Noise to picture. BatchNorm and ReLU after every layer but the last; Tanh after the last: pixels in [-1, 1].

    A G that knows classes is told which picture to make: beside the noise stands a number for each class, 1 for the one
    that is meant and 0 for the others (Mirza & Osindero 2014).
    """

    def __init__(self, layers: list[Layer], classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        layers = [(layers[0][0] + classes, *layers[0][1:]), *layers[1:]]
        modules: list[nn.Module] = []
        for n_in, n_out, kernel, stride, padding in layers[:-1]:
            modules.append(nn.ConvTranspose2d(n_in, n_out, kernel, stride, padding, bias=False))
            modules.append(nn.BatchNorm2d(n_out))
            modules.append(nn.ReLU())
        n_in, n_out, kernel, stride, padding = layers[-1]
        modules.append(nn.ConvTranspose2d(n_in, n_out, kernel, stride, padding, bias=False))
        modules.append(nn.Tanh())
        self.layers = nn.Sequential(*modules)

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Noise [B, latent] to pictures [B, C, H, W]. The noise enters as a picture of one pixel with many channels."""
        if labels_B is not None:
            z_BL = torch.cat([z_BL, F.one_hot(labels_B, self.classes).to(z_BL.dtype)], dim=1)
        batch, latent = z_BL.shape
        pictures_BCHW: Tensor = self.layers(z_BL.reshape(batch, latent, 1, 1))
        return pictures_BCHW


class Discriminator(nn.Module):
    """Picture to logit. LeakyReLU after every layer but the last; BatchNorm before it, but not after the first layer.

    The last number is a logit: D's probability that the picture is real is its sigmoid, and the sigmoid is part of the
    loss, where it can be computed without overflow.

    A D that knows classes is told which one the picture is said to be of. It has a vector for each, and adds to the
    logit how far the picture's features point in its direction (projection discriminator, Miyato & Koyama 2018).
    """

    def __init__(self, layers: list[Layer], classes: int = 0) -> None:
        super().__init__()
        n_in, n_out, kernel, stride, padding = layers[0]
        modules: list[nn.Module] = [
            nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False),
            nn.LeakyReLU(0.2),
        ]
        for n_in, n_out, kernel, stride, padding in layers[1:-1]:
            modules.append(nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False))
            modules.append(nn.BatchNorm2d(n_out))
            modules.append(nn.LeakyReLU(0.2))
        n_in, n_out, kernel, stride, padding = layers[-1]
        modules.append(nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False))
        self.layers = nn.Sequential(*modules)
        if classes:
            self.embedding = nn.Embedding(classes, n_in)

    def forward(self, pictures_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Pictures [B, C, H, W] to logits [B]."""
        features_BCHW = self.layers[:-1](pictures_BCHW)
        logits_B: Tensor = self.layers[-1](features_BCHW).reshape(-1)
        if labels_B is not None:
            directions_BC = self.embedding(labels_B)
            logits_B = logits_B + (directions_BC * features_BCHW.sum(dim=(2, 3))).sum(dim=1)
        return logits_B


class Shift(nn.Module):
    """A number added to each channel: all that is left of BatchNorm in a D with spectral normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        return x_BCHW + self.bias.reshape(1, -1, 1, 1)


def normalise_spectrally(discriminator: Discriminator) -> None:
    """Spectral normalisation (Miyato et al. 2018): each weight is divided by its largest singular value.

    No layer can then stretch the difference between two pictures: D is steep nowhere. BatchNorm would undo it, as its
    result does not depend on a weight's scale; so it is replaced by its shift alone. To be called after `initialise`.
    """
    layers = discriminator.layers
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            layers[number] = Shift(layer.num_features)
        elif isinstance(layer, nn.Conv2d):
            parametrizations.spectral_norm(layer)
    if hasattr(discriminator, "embedding"):
        parametrizations.spectral_norm(discriminator.embedding)


def initialise(network: nn.Module) -> None:
    """Begin small: BatchNorm's scale from N(1, 0.02), BatchNorm's shift at 0, all other weights from N(0, 0.02)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
            nn.init.zeros_(module.bias)


def adam(network: nn.Module, lr: float = 2e-4) -> torch.optim.Adam:
    """Adam as DCGAN uses it. Its usual beta1 of 0.9 looks too far back: the opponent has changed since.

    The two networks may learn at different rates (the two time-scale update rule, Heusel et al. 2017).
    """
    return torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999))


# --- What each network wants ------------------------------------------------------------------------------------------


def loss_d(objective: str, logits_real_B: Tensor, logits_fake_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """What D wants to be small: real pictures judged real, G's pictures judged fake."""
    real_label = torch.full_like(logits_real_B, 1.0 - label_smoothing)
    fake_label = torch.zeros_like(logits_fake_B)
    if objective in ("bce", "minimax"):
        # Binary cross-entropy: -log D(x) where the label is 1, -log(1 - D(x)) where it is 0.
        error_real = F.binary_cross_entropy_with_logits(logits_real_B, real_label)
        error_fake = F.binary_cross_entropy_with_logits(logits_fake_B, fake_label)
        return error_real + error_fake
    if objective == "hinge":
        # Enough is enough: beyond a logit of 1 on the right side nothing more is to be gained.
        error_real = torch.clamp(1.0 - logits_real_B, min=0.0).mean()
        error_fake = torch.clamp(1.0 + logits_fake_B, min=0.0).mean()
        return error_real + error_fake
    if objective == "lsgan":
        # Least squares: the logit itself should be the label.
        error_real = F.mse_loss(logits_real_B, real_label)
        error_fake = F.mse_loss(logits_fake_B, fake_label)
        return (error_real + error_fake) / 2
    if objective == "rpgan":
        # Relativistic: the real picture shall only be judged more real than the fake one beside it.
        return F.softplus(-(logits_real_B - logits_fake_B)).mean()
    raise ValueError(f"unknown objective {objective!r}")


def loss_g(objective: str, logits_fake_B: Tensor, logits_real_B: Tensor | None = None) -> Tensor:
    """What G wants to be small: its pictures judged real. So the label of a fake picture flips from 0 to 1 here.

    Only rpgan looks at the logits of real pictures.
    """
    real_label = torch.ones_like(logits_fake_B)
    fake_label = torch.zeros_like(logits_fake_B)
    if objective == "bce":
        # -log D(G(z)). Same aim as the next, but its gradient is strongest while D still wins, when G needs it.
        return F.binary_cross_entropy_with_logits(logits_fake_B, real_label)
    if objective == "minimax":
        # log(1 - D(G(z))): exactly what D maximises, minimised. Flat while D wins.
        return -F.binary_cross_entropy_with_logits(logits_fake_B, fake_label)
    if objective == "hinge":
        return -logits_fake_B.mean()
    if objective == "lsgan":
        return F.mse_loss(logits_fake_B, real_label) / 2
    if objective == "rpgan":
        # And here the fake one more real than the real one beside it.
        assert logits_real_B is not None
        return F.softplus(-(logits_fake_B - logits_real_B)).mean()
    raise ValueError(f"unknown objective {objective!r}")


def probabilities(objective: str, logits_real_B: Tensor, logits_fake_B: Tensor) -> tuple[Tensor, Tensor]:
    """How sure D is that a real picture is real, and that a fake one is: D(x) and D(G(z)), in the mean.

    By rpgan only the difference of two logits means something: how sure D is which of the two is the real one.
    """
    if objective == "rpgan":
        right = torch.sigmoid(logits_real_B - logits_fake_B).mean()
        return right, 1.0 - right
    return torch.sigmoid(logits_real_B).mean(), torch.sigmoid(logits_fake_B).mean()


def lecam_term(logits_real_B: Tensor, logits_fake_B: Tensor, anchors_2: Tensor) -> Tensor:
    """LeCam (Tseng et al. 2021): D's logits are held near what they were on the other kind of pictures.

    The anchors are those of real and of fake pictures: moving averages of D's logits over the steps so far.
    """
    anchor_real, anchor_fake = anchors_2
    error_real = F.mse_loss(logits_real_B, anchor_fake.expand_as(logits_real_B))
    error_fake = F.mse_loss(logits_fake_B, anchor_real.expand_as(logits_fake_B))
    return error_real + error_fake


# --- What D sees ------------------------------------------------------------------------------------------------------


def augment(pictures_BCHW: Tensor, uniform_BN: Tensor, names: tuple[str, ...]) -> Tensor:
    """DiffAugment (Zhao et al. 2020): each picture changed at random, so that D can't learn the real ones by heart.

    Every operation has a gradient, and G's pictures are changed in the same ways: so G learns through the change, and
    does not learn to draw it.

    Args:
        pictures_BCHW: real or fake, in [-1, 1].
        uniform_BN: seven random numbers in [0, 1) for each.
        names: colour, translation, cutout, or some of them.
    """
    if pictures_BCHW.dtype == torch.bfloat16:
        pictures_BCHW = pictures_BCHW.float()
    changed = []
    for picture_CHW, numbers in zip(pictures_BCHW, uniform_BN.tolist(), strict=True):
        brightness, saturation, contrast, down, right, top, left = numbers
        _, height, width = picture_CHW.shape
        if "colour" in names:
            picture_CHW = picture_CHW + (brightness - 0.5)
            grey = picture_CHW.mean(dim=0, keepdim=True)
            picture_CHW = grey + (picture_CHW - grey) * (2 * saturation)
            mean = picture_CHW.mean()
            picture_CHW = mean + (picture_CHW - mean) * (contrast + 0.5)
        if "translation" in names:
            # Up to an eighth of the side, in whole pixels. What comes in from outside is 0.
            y, x = round(height / 8), round(width / 8)
            dy, dx = int(down * (2 * y + 1)) - y, int(right * (2 * x + 1)) - x
            padded = F.pad(picture_CHW, (x, x, y, y))
            picture_CHW = padded[:, y - dy : y - dy + height, x - dx : x - dx + width]
        if "cutout" in names:
            # A window of half the side, wherever its centre falls, is 0.
            h, w = round(height / 2), round(width / 2)
            y, x = int(top * (height + 1 - h % 2)) - h // 2, int(left * (width + 1 - w % 2)) - w // 2
            mask = torch.ones_like(picture_CHW)
            mask[:, max(0, y) : y + h, max(0, x) : x + w] = 0
            picture_CHW = picture_CHW * mask
        changed.append(picture_CHW)
    return torch.stack(changed)


# --- One step ---------------------------------------------------------------------------------------------------------


def train_step(
    G: nn.Module,
    D: nn.Module,
    optimizer_g: torch.optim.Optimizer,
    optimizer_d: torch.optim.Optimizer,
    real_BCHW: Tensor,
    z_BL: Tensor,
    objective: str = "bce",
    label_smoothing: float = 0.0,
    d_steps: int = 1,
    augmentation: tuple[str, ...] = (),
    uniform_BN: Tensor | None = None,
    lecam: float = 0.0,
    anchors_2: Tensor | None = None,
    labels_B: Tensor | None = None,
) -> dict[str, Tensor]:
    """One iteration: D learns from a batch of real and a batch of G's pictures, then G learns from the better D.

    D may learn several times before G does, as in the first GAN's algorithm 1: each time from other pictures.

    Args:
        G: the generator, in training mode.
        D: the discriminator, in training mode.
        optimizer_g: changes G's parameters alone.
        optimizer_d: changes D's parameters alone.
        real_BCHW: real pictures in [-1, 1]: as many batches as D has steps, one after the other.
        z_BL: standard normal noise likewise. It is an argument so that two implementations can be given the same.
        objective: bce, minimax, hinge, lsgan or rpgan.
        label_smoothing: how far below 1 D's target for real pictures lies.
        d_steps: how often D learns.
        augmentation: how what D sees is changed (`augment`).
        uniform_BN: random numbers for it: seven for each real picture, then seven for the fake one beside it.
        lecam: weight of `lecam_term` in D's loss.
        anchors_2: its anchors, 0 at first; changed in place.
        labels_B: the class of each real picture, and of the fake one beside it, for networks that know classes.

    Returns:
        loss_d, loss_g, and D's mean probability for real (d_real) and fake pictures (d_fake) before its last update.
    """
    # 1. D learns. Real and fake go through D one after the other, each batch with BatchNorm statistics of its own:
    #    mixed in one batch, the statistics themselves would tell D which half is fake.
    #    detach() cuts the fake pictures off from the graph that made them. D's loss shall change D; without the cut,
    #    backward() would run on into G and leave gradients there that *help* D.
    #    With spectral normalisation a weight in training mode takes a step of the power iteration whenever it is used;
    #    cached() makes that once an update, for real and fake together.
    for number, (real_bCHW, z_bL) in enumerate(zip(real_BCHW.chunk(d_steps), z_BL.chunk(d_steps), strict=True)):
        of_class = () if labels_B is None else (labels_B.chunk(d_steps)[number],)
        fake_BCHW = G(z_bL, *of_class)
        if augmentation:
            assert uniform_BN is not None
            for_real, for_fake = uniform_BN.chunk(d_steps)[number].chunk(2, dim=1)
            real_bCHW = augment(real_bCHW, for_real, augmentation)
            fake_BCHW = augment(fake_BCHW, for_fake, augmentation)
        D.zero_grad()
        with parametrize.cached():
            logits_real_B = D(real_bCHW, *of_class)
            logits_fake_B = D(fake_BCHW.detach(), *of_class)
        error_d = loss_d(objective, logits_real_B, logits_fake_B, label_smoothing)
        if lecam:
            assert anchors_2 is not None
            error_d = error_d + lecam * lecam_term(logits_real_B, logits_fake_B, anchors_2)
        error_d.backward()
        optimizer_d.step()
        if anchors_2 is not None:
            means = torch.stack([logits_real_B.detach().mean(), logits_fake_B.detach().mean()])
            anchors_2.copy_(0.99 * anchors_2 + 0.01 * means)

    # 2. G learns. The last pictures, not detached this time, judged by the D that has just been updated. backward()
    #    goes through D into G. It leaves gradients in D on the way, which nobody asked for: D.zero_grad() above throws
    #    them away in the next step.
    has_spectral_norm = any(parametrize.is_parametrized(layer) for layer in D.modules())
    if has_spectral_norm:
        D.eval()  # no step of the power iteration here; nothing else in such a D depends on the mode
    G.zero_grad()
    new_logits_real_B = D(real_bCHW, *of_class).detach() if objective == "rpgan" else None
    error_g = loss_g(objective, D(fake_BCHW, *of_class), new_logits_real_B)
    error_g.backward()
    optimizer_g.step()
    if has_spectral_norm:
        D.train()

    d_real, d_fake = probabilities(objective, logits_real_B, logits_fake_B)
    return {
        "loss_d": error_d.detach(),
        "loss_g": error_g.detach(),
        "d_real": d_real.detach(),
        "d_fake": d_fake.detach(),
    }


def penalty_step(
    D: nn.Module,
    optimizer_d: torch.optim.Optimizer,
    real_BCHW: Tensor,
    fake_BCHW: Tensor,
    r1: float = 1.0,
    r2: float = 0.0,
    every: int = 16,
    labels_B: Tensor | None = None,
) -> None:
    """An update of D by the penalties R1 and R2 (Mescheder et al. 2018): gamma / 2 times its gradient's squared length.

    A D that is flat around real pictures does not drive G past them (R1); around fake ones it is held flat for the
    relativistic objective (R2, Huang et al. 2024). One such update, as much stronger, is enough every 16 steps (Karras
    et al. 2020).

    Args:
        D: the discriminator, in training mode.
        optimizer_d: changes D's parameters alone.
        real_BCHW: the step's last real pictures, as D saw them.
        fake_BCHW: what G, after the step, makes of the same noise, changed as before. Used where there is R2.
        r1: gamma at real pictures; 0: none.
        r2: gamma at fake pictures; 0: none.
        every: in how many steps it is taken once.
        labels_B: their classes, for a D that knows classes.
    """
    has_spectral_norm = any(parametrize.is_parametrized(layer) for layer in D.modules())
    if has_spectral_norm:
        D.eval()  # no step of the power iteration
    of_class = () if labels_B is None else (labels_B,)
    penalty = torch.zeros((), dtype=real_BCHW.dtype)
    for gamma, pictures_BCHW in ((r1, real_BCHW), (r2, fake_BCHW)):
        if gamma:
            pictures_BCHW = pictures_BCHW.detach().requires_grad_()
            logits_B = D(pictures_BCHW, *of_class)
            slopes_BCHW = torch.autograd.grad(logits_B.sum(), pictures_BCHW, create_graph=True)[0]
            penalty = penalty + gamma / 2 * slopes_BCHW.square().sum(dim=(1, 2, 3)).mean()
    parameters = list(D.parameters())
    gradients = torch.autograd.grad(every * penalty, parameters, materialize_grads=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer_d.step()
    if has_spectral_norm:
        D.train()
