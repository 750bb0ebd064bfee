"""Drawing of surfaces and of what goes wrong with them. Lengths are in 1/64 of the image's side, strengths relative to the local brightness."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

DRAWING = 2  # part of the key of the cache: raise it with every change that moves a pixel

Number = int | float


class Canvas:
    """Coordinates centred on `n` images, and random numbers shaped [n, 1, 1] to go with them."""

    def __init__(self, n: int, size: int, rng: torch.Generator) -> None:
        self.n, self.size, self.rng = n, size, rng
        line = (torch.arange(size) + 0.5) * (64 / size) - 32
        self.x, self.y = line[None, None, :], line[None, :, None]

    def uniform(self, low: Number, high: Number) -> Float[Tensor, "n 1 1"]:
        return torch.rand(self.n, 1, 1, generator=self.rng) * (high - low) + low

    def sign(self) -> Float[Tensor, "n 1 1"]:
        return torch.where(self.uniform(-1, 1) < 0, -1.0, 1.0)

    def some(self, feature: Float[Tensor, "n s s"], share: float) -> Float[Tensor, "n s s"]:
        """The feature on a random `share` of the images, nothing on the others."""
        return feature * (self.uniform(0, 1) < share)

    def axes(self, angle: Tensor, x0: Tensor | Number = 0, y0: Tensor | Number = 0) -> tuple[Tensor, Tensor]:
        """Coordinates along and across the line through (x0, y0) at `angle`, each [n, size, size]."""
        x, y, cos, sin = self.x - x0, self.y - y0, angle.cos(), angle.sin()
        return x * cos + y * sin, y * cos - x * sin

    def noise(self, u: Tensor, v: Tensor, cell_u: Tensor | Number, cell_v: Tensor | Number) -> Float[Tensor, "n s s"]:
        """Smooth noise through unit-normal nodes, one every (cell_u, cell_v)."""
        nodes = torch.randn(self.n, 1, 64, 64, generator=self.rng)
        grid = torch.stack([u / cell_u / 32, v / cell_v / 32], dim=-1)
        return F.grid_sample(nodes, grid, padding_mode="reflection", align_corners=False)[:, 0]

    def spots(
        self, count: int, radius: tuple[Number, Number], strength: tuple[Number, Number]
    ) -> Float[Tensor, "n s s"]:
        """Soft round spots, up to `count` an image (each is there with probability 1/2)."""
        draws = torch.rand(self.n, count, 5, generator=self.rng)
        x0, y0 = draws[..., 0:1] * 64 - 32, draws[..., 1:2] * 64 - 32
        r = radius[0] + draws[..., 2:3] * (radius[1] - radius[0])
        height = (strength[0] + draws[..., 3:4] * (strength[1] - strength[0])) * (draws[..., 4:5] < 0.5)
        along_x = torch.exp(-(((self.x - x0) / r) ** 2))
        along_y = torch.exp(-(((self.y[..., 0] - y0) / r) ** 2)) * height
        return torch.einsum("nkh,nkw->nhw", along_y, along_x)


def brushed(c: Canvas) -> Tensor:
    u, v = c.axes(c.uniform(0, math.pi))
    coarse = c.noise(u, v, 24, 2.5) * c.uniform(0.03, 0.07)
    return coarse + c.noise(u, v, 12, 0.8) * c.uniform(0.04, 0.09)


def turned(c: Canvas) -> Tensor:
    """Grooves of a lathe: arcs about a far centre."""
    u, v = c.axes(c.uniform(0, 2 * math.pi), c.uniform(-8, 8), c.uniform(-8, 8))
    radius = torch.hypot(u + c.uniform(30, 120), v)
    grooves = (radius * (2 * math.pi / c.uniform(3, 6)) + c.uniform(0, 6)).sin()
    return grooves * c.uniform(0.03, 0.08) + c.noise(radius, v, 0.9, 16) * c.uniform(0.03, 0.07)


def cast(c: Canvas) -> Tensor:
    """Pits and grains."""
    u, v = c.axes(c.uniform(0, math.pi))
    grains = c.noise(u, v, 1.3, 1.3) * c.uniform(0.05, 0.1)
    return grains + c.noise(u, v, 4, 4) * c.uniform(0.02, 0.06)


def painted(c: Canvas) -> Tensor:
    """Orange peel, hardly visible."""
    u, v = c.axes(c.uniform(0, math.pi))
    return c.noise(u, v, 2.5, 2.5) * c.uniform(0.01, 0.035) + c.noise(u, v, 14, 14) * c.uniform(0.01, 0.04)


def woven(c: Canvas) -> Tensor:
    """Plain weave: in every second cell the warp lies on top, in the others the weft."""
    u, v = c.axes(c.uniform(0, math.pi))
    thread = c.uniform(3.5, 6)
    u, v = u + c.noise(u, v, 16, 16) * 0.35, v + c.noise(u, v, 16, 16) * 0.35
    cell_u, cell_v = (u / thread).floor(), (v / thread).floor()
    round_u, round_v = (math.pi * (u / thread - cell_u)).sin(), (math.pi * (v / thread - cell_v)).sin()
    warp_on_top = (cell_u + cell_v) % 2 == 0
    relief = torch.where(warp_on_top, round_u * (0.6 + 0.4 * round_v), round_v * (0.6 + 0.4 * round_u))
    return (relief - 0.5) * c.uniform(0.15, 0.35) + c.noise(u, v, 1, 1) * c.uniform(0.02, 0.04)


def scratch(c: Canvas, light: Tensor) -> Tensor:
    """A slightly bent groove: a dark core with a bright lip, or the other way about."""
    half = c.uniform(10, 24)
    u, v = c.axes(c.uniform(0, math.pi), c.uniform(-18, 18), c.uniform(-18, 18))
    v = v - c.uniform(-0.012, 0.012) * u**2
    width = c.uniform(0.8, 1.4)
    ends = torch.sigmoid((half - u.abs()) * 1.2)
    profile = torch.exp(-((v / width) ** 2)) - 0.6 * torch.exp(-(((v - 2 * width) / width) ** 2))
    return c.sign() * profile * ends * c.uniform(0.35, 0.7)


def dent(c: Canvas, light: Tensor) -> Tensor:
    """A dimple: bright on the side that faces the light, dark on the other."""
    u, v = c.axes(light, c.uniform(-18, 18), c.uniform(-18, 18))
    radius = c.uniform(4.5, 9)
    stretch = c.uniform(0.7, 1.4)
    bowl = torch.exp(-((u / radius) ** 2) - (v / radius / stretch) ** 2)
    return 2.0 * u / radius * bowl * c.uniform(0.4, 0.7)


def stain(c: Canvas, light: Tensor) -> Tensor:
    """A blot with a ragged border, darkest at its rim."""
    u, v = c.axes(c.uniform(0, math.pi), c.uniform(-18, 18), c.uniform(-18, 18))
    radius = torch.hypot(u, v * c.uniform(1.0, 1.8)) / c.uniform(7, 14)
    inside = 1 - radius + 0.35 * c.noise(u, v, 5, 5)
    body = torch.sigmoid(inside * 9)
    rim = torch.exp(-((inside * 6) ** 2))
    return -(0.8 * body + 0.4 * rim) * c.uniform(0.25, 0.45)


def crack(c: Canvas, light: Tensor) -> Tensor:
    """A dark jagged line that thins out, half of the time with a branch."""
    x0, y0, angle = c.uniform(-16, 16), c.uniform(-16, 16), c.uniform(0, 2 * math.pi)
    trunk = _jagged(c, x0, y0, angle, c.uniform(20, 36))
    branch = _jagged(c, x0, y0, angle + c.sign() * c.uniform(0.5, 1.2), c.uniform(10, 20))
    return -torch.maximum(trunk, branch * (c.uniform(0, 1) < 0.5)) * c.uniform(0.5, 0.85)


def _jagged(c: Canvas, x0: Tensor, y0: Tensor, angle: Tensor, length: Tensor) -> Tensor:
    u, v = c.axes(angle, x0, y0)
    steps = torch.randn(c.n, 12, generator=c.rng) * 1.1
    knots = F.pad(steps.cumsum(dim=1), (1, 0))
    place = (u / length).clamp(0, 1) * 11.999
    left = place.long()
    offset = torch.lerp(
        knots.gather(1, left.flatten(1)), knots.gather(1, left.flatten(1) + 1), (place - left).flatten(1)
    ).view_as(u)
    width = 0.6 + 0.8 * (1 - u / length).clamp(0, 1)
    return torch.exp(-(((v - offset) / width) ** 2)) * torch.sigmoid(u * 2) * torch.sigmoid((length - u) * 2)


def seam(c: Canvas) -> Tensor:
    """A joint right across the surface: as thin as a scratch, but it runs from border to border."""
    _, v = c.axes(c.uniform(0, math.pi), c.uniform(-26, 26), c.uniform(-26, 26))
    width = c.uniform(0.6, 1.3)
    profile = torch.exp(-((v / width) ** 2)) - 0.5 * torch.exp(-(((v - 2 * width) / width) ** 2))
    return c.sign() * profile * c.uniform(0.1, 0.3)


def rivet(c: Canvas, light: Tensor) -> Tensor:
    """A round head: shaded like a dent the other way about, with a sharp dark border."""
    u, v = c.axes(light, c.uniform(-26, 26), c.uniform(-26, 26))
    radius = c.uniform(2.5, 5)
    r = torch.hypot(u, v) / radius
    inside = torch.sigmoid((1 - r) * radius * 2)
    return inside * -u / radius * c.uniform(0.15, 0.5) - torch.exp(-(((r - 1) * radius) ** 2)) * c.uniform(0.1, 0.35)


def sticker(c: Canvas) -> Tensor:
    """A straight-edged mark, lighter or darker than the surface."""
    u, v = c.axes(c.uniform(0, math.pi), c.uniform(-24, 24), c.uniform(-24, 24))
    inside = torch.sigmoid((c.uniform(2, 7) - u.abs()) * 3) * torch.sigmoid((c.uniform(2, 7) - v.abs()) * 3)
    return c.sign() * inside * c.uniform(0.1, 0.3)


def albedo(c: Canvas, material: Int[Tensor, " n"]) -> Float[Tensor, "n 3 1 1"]:
    """Colour of the surface: metals are nearly grey, paint and cloth are not."""
    saturation = torch.tensor([0.06, 0.06, 0.1, 0.35, 0.3])[material][:, None, None] * c.uniform(0.3, 1)
    hue, value = c.uniform(0, 1), c.uniform(0.32, 0.72)
    wave = (2 * math.pi * (hue - torch.tensor([0.0, 1 / 3, 2 / 3])[None, :, None])).cos()
    return (value * (1 + saturation * wave))[..., None]


def lighting(c: Canvas, light: Tensor, material: Int[Tensor, " n"]) -> Float[Tensor, "n s s"]:
    """A fall-off away from the light, darker corners, a band of glare on metal and a few soft reflexes anywhere."""
    u, _ = c.axes(light)
    slope = 1 + c.uniform(0, 0.3) * u / 32 - c.uniform(0, 0.18) * (c.x**2 + c.y**2) / 32**2
    across, _ = c.axes(c.uniform(0, math.pi), c.uniform(-30, 30), c.uniform(-30, 30))
    glare = torch.exp(-((across / c.uniform(6, 16)) ** 2)) * c.uniform(0, 0.3) * (material < 2).float()[:, None, None]
    return slope + glare + c.spots(4, (3, 10), (-0.12, 0.2))


MATERIALS: tuple[Callable[[Canvas], Tensor], ...] = (brushed, turned, cast, painted, woven)
KINDS: dict[str, Callable[[Canvas, Tensor], Tensor]] = {
    "scratch": scratch,
    "dent": dent,
    "stain": stain,
    "crack": crack,
}
STAIN_TINT = (0.75, 1.0, 1.35)  # a stain takes more from blue than from red: it looks brown


def draw(
    kind: Int[Tensor, " n"], kinds: Sequence[str], size: int, contrast: float, rng: torch.Generator
) -> tuple[UInt8[Tensor, "n 3 s s"], Int[Tensor, " n"]]:
    """Images with the given defects (0 = none, else 1 + the place in `kinds`) and the material of each, all drawn from `rng`."""
    n = len(kind)
    canvas = Canvas(n, size, rng)
    material = torch.randint(len(MATERIALS), (n,), generator=rng)
    relief = torch.empty(n, size, size)
    for number, paint in enumerate(MATERIALS):
        rows = (material == number).nonzero()[:, 0]
        if len(rows):
            relief[rows] = paint(Canvas(len(rows), size, rng))
    light = canvas.uniform(0, 2 * math.pi)
    relief += (
        canvas.some(seam(canvas), 0.3) + canvas.some(rivet(canvas, light), 0.3) + canvas.some(sticker(canvas), 0.2)
    )
    relief += canvas.spots(5, (0.7, 1.3), (-0.3, 0.3))
    image = albedo(canvas, material) * (lighting(canvas, light, material) * (1 + relief))[:, None]
    for number, name in enumerate(kinds, start=1):
        rows = (kind == number).nonzero()[:, 0]
        if len(rows):
            tint = torch.tensor(STAIN_TINT if name == "stain" else (1.0, 1.0, 1.0))[:, None, None]
            image[rows] *= 1 + contrast * tint * KINDS[name](Canvas(len(rows), size, rng), light[rows])[:, None]
    image += torch.randn(image.shape, generator=rng) * canvas.uniform(0.008, 0.025)[:, None]
    return (image * 255).round_().clamp_(0, 255).to(torch.uint8), material
