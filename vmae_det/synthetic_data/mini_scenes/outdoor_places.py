"""Outdoor places of MiniScenes. Each function paints one, and adds what moves there."""

from __future__ import annotations

import numpy as np

from vmae_det.synthetic_data.drawing import Shape, shaded
from vmae_det.synthetic_data.mini_scenes.painter import (
    BOTTOM,
    DARK,
    GREEN,
    LEFT,
    RIGHT,
    TOP,
    WHITE,
    WIDTH,
    WOOD,
    Painter,
    ellipse,
    line,
    polygon,
    rectangle,
)


def _sky(painter: Painter, bottom: float) -> None:
    skies = (
        ((95, 150, 215), (190, 215, 235)),
        ((230, 150, 110), (245, 215, 160)),
        ((150, 165, 180), (205, 210, 215)),
    )
    top, low = skies[painter.rng.integers(len(skies))]
    painter.gradient(TOP, bottom, painter.near(top), painter.near(low))


def _add_waves(painter: Painter, y: float) -> None:
    """Add a row of waves."""
    rng = painter.rng
    phase, pace, length = rng.random(2), rng.uniform(0.3, 0.8), rng.uniform(8, 18)

    def wave(time: float) -> list[Shape]:
        found = []
        for number in range(4):
            left = LEFT + (number * 46 + 46 * phase[0] + 14 * np.sin(2 * np.pi * (pace * time + phase[1])))
            found.append(line(left, y, left + length, y + 0.6 * np.sin(5 * time), 1.2, (225, 238, 240)))
        return found

    painter.move(y, wave)


def beach(painter: Painter) -> None:
    """Sea with waves and a boat, sand with umbrellas and towels, and a ball."""
    rng = painter.rng
    horizon, shore = rng.uniform(26, 36), rng.uniform(50, 60)
    _sky(painter, horizon)
    sea = painter.near((40, 120, 165))
    painter.gradient(horizon, shore, shaded(sea, 0.8), shaded(sea, 1.25))
    sand = painter.near((225, 200, 145))
    painter.gradient(shore, BOTTOM, shaded(sand, 0.85), sand)
    painter.add(ellipse(rng.uniform(10, 118), rng.uniform(4, 16), 6, 6, (250, 235, 150)))
    sail, x, speed = painter.bright(), rng.uniform(20, 108), rng.uniform(-7, 7)

    def boat(time: float) -> list[Shape]:
        left, y = x + speed * time, horizon + 3 + 0.8 * np.sin(3 * time)
        return [
            polygon(WHITE, (left - 7, y - 3), (left + 7, y - 3), (left + 4, y), (left - 4, y)),
            line(left, y - 3, left, y - 16, 0.8, DARK),
            polygon(sail, (left + 1, y - 16), (left + 8, y - 4), (left + 1, y - 4)),
        ]

    painter.move(horizon + 3, boat)
    for y in np.linspace(horizon + 5, shore - 1, 6):
        _add_waves(painter, y)
    for x_umbrella in painter.positions(int(rng.integers(1, 4)), 24):
        y, color = rng.uniform(shore + 6, 76), painter.bright()
        painter.add(
            polygon(
                painter.bright(),
                (x_umbrella - 9, y),
                (x_umbrella + 8, y),
                (x_umbrella + 12, y + 4),
                (x_umbrella - 6, y + 4),
            ),
            line(x_umbrella, y, x_umbrella, y - 24, 1.2, WHITE),
            ellipse(x_umbrella, y - 19, 14, 10, color, 180, 360),
            *[ellipse(x_umbrella + dx, y - 19, 2.5, 9, WHITE, 180, 360) for dx in (-7, 0, 7)],
        )
    if rng.random() < 0.7:
        painter.ball(rng.uniform(70, 90), rng.uniform(3.5, 5), (painter.bright(), WHITE), 30)
    for _ in range(rng.integers(0, 3)):
        painter.bird(horizon - 4)


def snow(painter: Painter) -> None:
    """Mountains, fir trees, falling snow, and sometimes a snowman."""
    rng = painter.rng
    slope = rng.uniform(42, 54)
    sky = painter.near((165, 185, 205))
    painter.gradient(TOP, slope, sky, shaded(sky, 1.15))
    for x in painter.positions(3):
        top, half, rock = rng.uniform(2, 22), rng.uniform(28, 46), painter.near((110, 118, 135))
        painter.add(polygon(rock, (x - half, slope), (x, top), (x + half, slope)))
        cap = 0.35
        painter.add(
            polygon(
                WHITE,
                (x - cap * half, top + cap * (slope - top)),
                (x, top),
                (x + cap * half, top + cap * (slope - top)),
                (x, top + 0.28 * (slope - top)),
            )
        )
    painter.gradient(slope, BOTTOM, painter.near((205, 215, 228)), painter.near((244, 246, 250)))
    for x in painter.positions(int(rng.integers(3, 7)), 8):
        painter.tree(x, slope + rng.uniform(1, 14), rng.uniform(22, 40), needles=True)
    if rng.random() < 0.5:
        x, y = rng.uniform(15, 113), rng.uniform(66, 78)
        painter.add(
            ellipse(x, y - 5, 6, 5.5, WHITE),
            ellipse(x, y - 13, 4.5, 4.5, WHITE),
            ellipse(x, y - 20, 3.4, 3.4, WHITE),
            polygon((235, 130, 40), (x + 1, y - 20), (x + 6, y - 19), (x + 1, y - 18.5)),
            rectangle(x - 3, y - 27, x + 3, y - 22.5, DARK),
        )
    painter.falling(int(rng.integers(25, 70)), WHITE, 1.8, rng.uniform(18, 40), 2.0)


def forest(painter: Painter) -> None:
    """Tree trunks, undergrowth, a path and falling leaves; sometimes a tent and a fire."""
    rng = painter.rng
    ground = rng.uniform(46, 56)
    green = painter.near((60, 105, 55), 30)
    painter.gradient(TOP, ground, shaded(green, 1.2), shaded(green, 0.5))
    painter.gradient(ground, BOTTOM, painter.near((70, 85, 40)), painter.near((95, 100, 55)))
    way = rng.uniform(30, 98)
    painter.add(
        polygon(
            painter.near((150, 120, 80)),
            (64 - 4, ground),
            (64 + 4, ground),
            (way + 26, BOTTOM),
            (way - 26, BOTTOM),
        )
    )
    for depth, count in ((0.5, 9), (0.75, 6), (1.0, 3)):
        for x in painter.positions(count):
            if depth == 1.0 and 30 < x < 98:
                continue  # not in front of the people
            y, half = ground + 22 * (depth - 0.4), 6.5 * depth**2
            bark = shaded(painter.near((92, 66, 44)), 0.45 + 0.55 * depth)
            painter.add(
                polygon(bark, (x - half * 1.3, y), (x - half, TOP), (x + half, TOP), (x + half * 1.3, y))
            )
    for x in painter.positions(9):
        painter.add(
            ellipse(x, rng.uniform(-14, 4), rng.uniform(12, 22), rng.uniform(9, 15), painter.near(green, 25))
        )
    for x in painter.positions(6):
        painter.add(
            ellipse(
                x,
                ground + rng.uniform(4, 9),
                rng.uniform(5, 9),
                rng.uniform(4, 6),
                painter.near(GREEN),
                180,
                360,
            )
        )
    if rng.random() < 0.5:
        x, y = rng.uniform(18, 110), rng.uniform(66, 74)
        painter.add(
            polygon(painter.bright(), (x - 15, y), (x, y - 20), (x + 15, y)),
            polygon(DARK, (x - 5, y), (x, y - 14), (x + 5, y)),
        )
    if rng.random() < 0.5:
        x, y = rng.uniform(20, 108), rng.uniform(80, 88)

        def fire(time: float) -> list[Shape]:
            high = 9 + 2.5 * np.sin(17 * time) + np.sin(31 * time)
            return [
                line(x - 6, y, x + 6, y - 2, 2.5, WOOD),
                line(x - 6, y - 2, x + 6, y, 2.5, WOOD),
                polygon(
                    (240, 120, 30), (x - 5, y - 2), (x + 2 * np.sin(11 * time), y - 2 - high), (x + 5, y - 2)
                ),
                polygon(
                    (250, 215, 90),
                    (x - 2.5, y - 2),
                    (x + np.sin(13 * time), y - 2 - 0.6 * high),
                    (x + 2.5, y - 2),
                ),
            ]

        painter.move(y, fire)
    painter.falling(int(rng.integers(5, 18)), painter.near((205, 140, 50), 30), 2.2, rng.uniform(12, 22), 5.0)


def street(painter: Painter) -> None:
    """Buildings with windows, a road with cars, a crossing and a traffic light."""
    rng = painter.rng
    curb = rng.uniform(48, 54)
    _sky(painter, curb)
    x = LEFT
    while x < RIGHT:
        width, top, wall = rng.uniform(20, 38), rng.uniform(-16, 18), painter.near((150, 125, 110), 45)
        painter.add(rectangle(x, top, x + width, curb, wall))
        lit = painter.near((120, 150, 175), 30)
        for left in np.arange(x + 4, x + width - 6, 8):
            for y in np.arange(top + 4, curb - 14, 10):
                painter.add(
                    rectangle(left, y, left + 4.5, y + 6, lit if rng.random() < 0.8 else (245, 220, 140))
                )
        painter.add(rectangle(x + width / 2 - 3, curb - 10, x + width / 2 + 3, curb, shaded(wall, 0.5)))
        x += width
    painter.add(rectangle(LEFT, curb, RIGHT, curb + 6, (165, 163, 160)))
    road = painter.near((82, 84, 90), 12)
    painter.gradient(curb + 6, BOTTOM, road, shaded(road, 1.15))
    for left in np.arange(LEFT, RIGHT, 18):
        painter.add(rectangle(left, curb + 19, left + 9, curb + 20.5, WHITE))
    crossing = rng.uniform(10, 80)
    for number in range(5):
        left = crossing + 8 * number
        painter.add(
            polygon(WHITE, (left, curb + 8), (left + 4, curb + 8), (left + 1, BOTTOM), (left - 5, BOTTOM))
        )
    post, phase, pace = (
        rng.choice([rng.uniform(4, 24), rng.uniform(104, 124)]),
        rng.random(),
        rng.uniform(0.25, 0.6),
    )

    def light(time: float) -> list[Shape]:
        state = int(3 * (phase + pace * time)) % 3
        colors = [(235, 60, 50), (240, 190, 50), (70, 215, 90)]
        return [
            line(post, curb + 4, post, curb - 22, 1.6, DARK),
            rectangle(post - 3, curb - 34, post + 3, curb - 18, DARK),
            *[
                ellipse(post, curb - 31 + 5 * i, 1.8, 1.8, c if i == state else shaded(c, 0.3))
                for i, c in enumerate(colors)
            ],
        ]

    painter.move(curb + 4, light)
    for lane, way in ((curb + 14, 1), (curb + 28, -1)):
        for _ in range(rng.integers(1, 3)):
            painter.car(
                rng.uniform(0, WIDTH), lane, rng.uniform(30, 38) * (lane - 10) / 60, way * rng.uniform(14, 60)
            )


def football_field(painter: Painter) -> None:
    """Grass with stripes and lines, a goal, stands with a crowd, and a ball."""
    rng = painter.rng
    edge = rng.uniform(36, 44)
    _sky(painter, 12)
    painter.gradient(12, edge, painter.near((95, 95, 110)), painter.near((120, 120, 130)))
    for y in np.arange(14, edge - 7, 5):
        for x in np.arange(LEFT, RIGHT, 5):
            painter.add(ellipse(x + rng.uniform(-1, 1), y, 1.5, 1.5, painter.near((170, 130, 120), 90)))
    painter.add(rectangle(LEFT, edge - 6, RIGHT, edge, painter.bright()))
    grass = painter.near((60, 140, 55))
    painter.gradient(edge, BOTTOM, shaded(grass, 0.85), shaded(grass, 1.1))
    for number in range(-6, 7, 2):
        painter.add(
            polygon(
                shaded(grass, 1.12),
                (64 + 10 * number, edge),
                (64 + 10 * (number + 1), edge),
                (64 + 30 * (number + 1), BOTTOM),
                (64 + 30 * number, BOTTOM),
            )
        )
    painter.add(
        line(LEFT, edge + 4, RIGHT, edge + 4, 0.8, WHITE),
        ellipse(64, 92, 40, 12, WHITE),
        ellipse(64, 92, 38.5, 11, grass),
    )
    x, y, half = rng.uniform(34, 94), edge + 5, 18
    net = (205, 210, 210)
    painter.add(
        *[line(x + dx, y - 17, x + dx, y, 0.3, net) for dx in np.arange(-half, half, 3.5)],
        *[line(x - half, y - dy, x + half, y - dy, 0.3, net) for dy in (4, 8, 12)],
        *[line(x + side * half, y, x + side * half, y - 17, 1.4, WHITE) for side in (-1, 1)],
        line(x - half, y - 17, x + half, y - 17, 1.4, WHITE),
    )
    painter.ball(rng.uniform(66, 90), rng.uniform(3.4, 4.4), (WHITE, DARK), 26)


def _add_flowers(painter: Painter, x: float, y: float) -> None:
    """Add a bed of flowers that sway."""
    rng = painter.rng
    painter.add(ellipse(x + 10, y, 20, 4, painter.near((95, 65, 45))))
    colors = [painter.bright() for _ in range(6)]
    offsets, phase = rng.uniform(-15, 15, size=6), rng.random(6)
    heights = rng.uniform(6, 11, size=6)

    def flowers(time: float) -> list[Shape]:
        found: list[Shape] = []
        for color, offset, start, high in zip(colors, offsets, phase, heights):
            left, sway = x + 10 + offset, 1.6 * np.sin(2 * np.pi * (0.7 * time + start))
            found += [
                line(left, y, left + sway, y - high, 1, GREEN),
                ellipse(left + sway, y - high, 2.4, 2.4, color),
                ellipse(left + sway, y - high, 0.9, 0.9, (250, 220, 80)),
            ]
        return found

    painter.move(y, flowers)


def _add_butterfly(painter: Painter) -> None:
    """Add a butterfly."""
    rng = painter.rng
    start, phase, color = rng.uniform((10, 40), (118, 80)), rng.random(2), painter.bright()

    def butterfly(time: float) -> list[Shape]:
        x = start[0] + 12 * np.sin(2 * np.pi * (0.4 * time + phase[0]))
        y = start[1] + 6 * np.sin(2 * np.pi * (0.9 * time + phase[1]))
        wing = 0.8 + 2.2 * abs(np.sin(9 * time))
        return [ellipse(x + side * wing, y, wing, 2.4, color) for side in (-1, 1)]

    painter.move(1000.0, butterfly)


def garden(painter: Painter) -> None:
    """A fence, beds of swaying flowers, a tree and butterflies."""
    rng = painter.rng
    lawn = rng.uniform(44, 52)
    _sky(painter, lawn)
    for x in painter.positions(int(rng.integers(0, 3))):
        painter.cloud(x, 14)
    fence = painter.near((205, 190, 165), 30)
    painter.add(
        rectangle(LEFT, lawn - 14, RIGHT, lawn - 11, fence), rectangle(LEFT, lawn - 6, RIGHT, lawn - 3, fence)
    )
    for x in np.arange(LEFT, RIGHT, 7):
        painter.add(
            polygon(
                fence, (x, lawn), (x, lawn - 17), (x + 2.2, lawn - 20), (x + 4.4, lawn - 17), (x + 4.4, lawn)
            )
        )
    painter.gradient(lawn, BOTTOM, painter.near((90, 150, 65)), painter.near((110, 165, 75)))
    if rng.random() < 0.7:
        painter.tree(
            rng.choice([rng.uniform(0, 24), rng.uniform(104, 128)]),
            lawn + 6,
            rng.uniform(44, 60),
            needles=False,
        )
    for x, y in zip(painter.positions(3, 20), rng.uniform(58, 90, size=3)):
        _add_flowers(painter, x, y)
    for _ in range(rng.integers(0, 4)):
        _add_butterfly(painter)
