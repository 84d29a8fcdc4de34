"""Indoor places of MiniScenes. Each function paints one, and adds what moves there."""

from __future__ import annotations

import numpy as np

from vmae_det.synthetic_data.drawing import Color, Shape, shaded
from vmae_det.synthetic_data.mini_scenes.painter import (
    BOTTOM,
    DARK,
    LEFT,
    RIGHT,
    TOP,
    WHITE,
    WOOD,
    Painter,
    ellipse,
    line,
    polygon,
    rectangle,
)


def _room(painter: Painter, edge: float, wall: Color, floor: Color) -> None:
    wall, floor = painter.near(wall), painter.near(floor)
    painter.gradient(TOP, edge, shaded(wall, 1.05), shaded(wall, 0.92))
    painter.gradient(edge, BOTTOM, shaded(floor, 0.85), shaded(floor, 1.08))
    painter.add(rectangle(LEFT, edge - 1.5, RIGHT, edge, shaded(wall, 0.6)))


def _add_spotlight(painter: Painter, x: float, floor: float) -> None:
    """Add the light cone of a lamp that turns."""
    rng = painter.rng
    color, phase, pace = painter.bright(), rng.random(), rng.uniform(0.3, 0.8)

    def spot(time: float) -> list[Shape]:
        foot = x + 26 * np.sin(2 * np.pi * (pace * time + phase))
        return [polygon(color, (x - 2, TOP), (x + 2, TOP), (foot + 14, floor + 14), (foot - 14, floor + 14))]

    painter.move(1.0, spot, glow=True)


def _add_head(painter: Painter, x: float) -> None:
    """Add the head of a spectator."""
    rng = painter.rng
    size, phase, pace = rng.uniform(5, 7), rng.random(), rng.uniform(0.6, 1.4)

    def head(time: float) -> list[Shape]:
        y = 89 - 1.5 * np.sin(2 * np.pi * (pace * time + phase))
        return [ellipse(x, y, size, size, (24, 20, 26)), ellipse(x, y + 15, 2 * size, 11, (24, 20, 26))]

    painter.move(999.0, head)


def stage(painter: Painter) -> None:
    """Curtains, a wooden stage, moving spotlights and the heads of an audience."""
    rng = painter.rng
    floor = rng.uniform(56, 62)
    painter.gradient(TOP, floor, painter.near((40, 34, 54)), painter.near((70, 45, 80), 30))
    painter.gradient(floor, BOTTOM, painter.near((120, 80, 50)), painter.near((85, 55, 35)))
    for y in np.arange(floor + 4, BOTTOM, 6):
        painter.add(line(LEFT, y, RIGHT, y, 0.3, (75, 48, 30)))
    curtain = painter.near((165, 25, 40), 30)
    for side, start in ((1, LEFT), (-1, RIGHT)):
        for number in range(6):
            x = start + side * 8 * number
            painter.add(
                rectangle(
                    min(x, x + side * 8),
                    TOP,
                    max(x, x + side * 8),
                    floor + 3,
                    shaded(curtain, 0.7 + 0.3 * (number % 2)),
                )
            )
    for x in np.arange(LEFT, RIGHT, 12):
        painter.add(ellipse(x, -2, 7, 9, shaded(curtain, 1.1), 0, 180))
    for x in (rng.uniform(22, 30), rng.uniform(98, 106)):
        painter.add(
            rectangle(x - 6, floor - 18, x + 6, floor + 2, DARK),
            ellipse(x, floor - 5, 4, 4, (80, 80, 85)),
            ellipse(x, floor - 13, 2.5, 2.5, (80, 80, 85)),
        )
    for x in painter.positions(int(rng.integers(2, 4))):
        _add_spotlight(painter, x, floor)
    for x in painter.positions(int(rng.integers(6, 10))):
        _add_head(painter, x)


def _add_pot(painter: Painter, x: float, edge: float) -> None:
    """Add a pot with steam."""
    rng = painter.rng
    color, phase = painter.near((150, 155, 165), 40), rng.random(3)

    def pot(time: float) -> list[Shape]:
        found: list[Shape] = []
        for start in phase:
            part = (start + 0.6 * time) % 1.0
            found.append(
                ellipse(
                    x + 3 * np.sin(7 * part + 6 * start),
                    edge - 30 - 22 * part,
                    2 + 3 * part,
                    2 + 3 * part,
                    (215, 218, 222),
                )
            )
        return [
            *found,
            line(x - 9, edge - 26, x + 9, edge - 26, 1.4, DARK),
            rectangle(x - 6.5, edge - 29, x + 6.5, edge - 20, color),
        ]

    painter.move(edge - 16, pot)


def kitchen(painter: Painter) -> None:
    """Tiles, cabinets, a stove with steaming pots, a fridge and hanging pans."""
    rng = painter.rng
    edge = rng.uniform(62, 68)
    _room(painter, edge, (215, 210, 195), (160, 140, 120))
    tile = painter.near((190, 205, 210), 30)
    painter.add(rectangle(LEFT, 20, RIGHT, edge - 20, tile))
    for x in np.arange(LEFT, RIGHT, 7):
        painter.add(line(x, 20, x, edge - 20, 0.3, WHITE))
    for y in np.arange(20, edge - 20, 7):
        painter.add(line(LEFT, y, RIGHT, y, 0.3, WHITE))
    cabinet = painter.near((175, 120, 75), 45)
    for x in np.arange(LEFT, RIGHT, 19):
        painter.add(rectangle(x, TOP, x + 18, 16, cabinet), ellipse(x + 15, 8, 1, 1.6, DARK))
        painter.add(
            rectangle(x, edge - 16, x + 18, edge + 3, cabinet), ellipse(x + 15, edge - 10, 1, 1.6, DARK)
        )
    painter.add(rectangle(LEFT, edge - 20, RIGHT, edge - 16, painter.near((80, 80, 85))))
    stove, fridge = (
        (rng.uniform(30, 60), rng.uniform(98, 116))
        if rng.random() < 0.5
        else (rng.uniform(70, 96), rng.uniform(8, 26))
    )
    painter.add(
        rectangle(stove - 16, edge - 17, stove + 16, edge + 3, (60, 60, 64)),
        rectangle(stove - 12, edge - 11, stove + 12, edge - 1, (105, 80, 60)),
        rectangle(fridge - 12, edge - 56, fridge + 12, edge + 4, painter.near((220, 222, 225), 12)),
        line(fridge - 12, edge - 36, fridge + 12, edge - 36, 0.6, DARK),
        line(fridge + 8, edge - 30, fridge + 8, edge - 20, 1.2, DARK),
    )
    for x in painter.positions(4, 14)[1:3]:
        painter.add(line(x, 16, x, 24, 0.8, DARK), ellipse(x, 28, 5, 5, (70, 70, 76)))
    for x in (stove - 8, stove + 8):
        _add_pot(painter, x, edge)


def gym(painter: Painter) -> None:
    """Mirrors, racks of dumbbells, a swinging punching bag and a running treadmill."""
    rng = painter.rng
    edge = rng.uniform(54, 60)
    _room(painter, edge, (120, 125, 140), (70, 72, 80))
    for x in np.arange(LEFT, RIGHT, 30):
        painter.add(rectangle(x + 2, 2, x + 28, edge - 8, painter.near((170, 190, 205), 14)))
        painter.add(line(x + 6, edge - 14, x + 16, 6, 1.2, (215, 228, 235)))
    rack = rng.uniform(12, 50)
    for row in range(2):
        y = edge - 2 + 8 * row
        painter.add(rectangle(rack - 22, y, rack + 22, y + 2, DARK))
        for x in np.arange(rack - 18, rack + 20, 9):
            color = painter.bright()
            painter.add(line(x - 2.5, y - 2.5, x + 2.5, y - 2.5, 1.2, (200, 200, 205)))
            painter.add(
                *[rectangle(x + side * 2.5 - 1.2, y - 5, x + side * 2.5 + 1.2, y, color) for side in (-1, 1)]
            )
    bag, phase, color = rng.uniform(66, 118), rng.random(), painter.near((150, 40, 40), 50)

    def punching_bag(time: float) -> list[Shape]:
        swing = 0.25 * np.sin(2 * np.pi * (0.8 * time + phase))
        x, y = bag + 24 * np.sin(swing), TOP + 34 * np.cos(swing) + 24
        return [
            line(bag, TOP, x, y, 0.8, (200, 200, 205)),
            line(x, y + 4, x + 22 * np.sin(swing), y + 26, 10, color),
            line(x + 4 * np.sin(swing), y + 8, x + 7 * np.sin(swing), y + 10, 10, WHITE),
        ]

    painter.move(edge + 2, punching_bag)
    for x in painter.positions(2, 30):
        painter.add(ellipse(x, rng.uniform(70, 76), 7, 7, painter.bright()))
    mat = painter.bright()
    x, y = rng.uniform(10, 80), rng.uniform(78, 86)
    painter.add(polygon(mat, (x, y), (x + 40, y), (x + 46, y + 8), (x - 6, y + 8)))


def basketball_court(painter: Painter) -> None:
    """A parquet with lines, a hoop and a ball."""
    rng = painter.rng
    edge = rng.uniform(48, 54)
    _room(painter, edge, (185, 160, 130), (205, 150, 90))
    for x in np.arange(-20, 22, 2):
        painter.add(line(64 + 4.5 * x, edge, 64 + 16 * x, BOTTOM, 0.3, (165, 115, 65)))
    paint = painter.bright()
    painter.add(rectangle(LEFT, edge - 9, RIGHT, edge - 3, paint))
    for x in np.arange(LEFT, RIGHT, 22):
        painter.add(rectangle(x + 2, -14, x + 18, 8, painter.near((175, 205, 225), 18)))
    x = rng.choice([rng.uniform(16, 36), rng.uniform(92, 112)])
    painter.add(
        polygon(
            paint,
            (x - 16, edge + 2),
            (x + 16, edge + 2),
            (64 + (x - 64) * 1.2 + 30, 82),
            (64 + (x - 64) * 1.2 - 30, 82),
        ),
        ellipse(64, 86, 34, 9, WHITE),
        ellipse(64, 86, 32.5, 8, (205, 150, 90)),
        line(x, edge + 2, x, edge - 42, 2, DARK),
        rectangle(x - 13, edge - 48, x + 13, edge - 30, WHITE),
        rectangle(x - 5, edge - 41, x + 5, edge - 33, (225, 80, 50)),
        rectangle(x - 3.6, edge - 40, x + 3.6, edge - 33, WHITE),
        *[line(x + dx, edge - 30, x + 0.6 * dx, edge - 22, 0.4, WHITE) for dx in (-6, -3, 0, 3, 6)],
        line(x - 6.5, edge - 30.5, x + 6.5, edge - 30.5, 1.6, (230, 90, 40)),
    )
    painter.ball(rng.uniform(68, 88), rng.uniform(3.6, 4.8), ((225, 120, 45), (130, 60, 25)), 40)


def supermarket(painter: Painter) -> None:
    """Shelves of products, a tiled floor, signs and a cart that rolls."""
    rng = painter.rng
    edge = rng.uniform(56, 62)
    _room(painter, edge, (225, 225, 220), (205, 205, 200))
    for x in np.arange(-14, 15, 2):
        painter.add(line(64 + 8 * x, edge, 64 + 20 * x, BOTTOM, 0.3, (165, 165, 165)))
    frame = painter.near((120, 130, 150), 40)
    for y in np.arange(edge - 52, edge + 1, 13):
        x = LEFT
        while x < RIGHT:
            color, width, high = painter.bright(), rng.uniform(3, 6), rng.uniform(6, 10)
            for _ in range(rng.integers(2, 5)):
                shape = rectangle(x, y - high, x + width - 0.7, y, color)
                painter.add(shape, rectangle(x + 0.8, y - 0.6 * high, x + width - 1.6, y - 0.3 * high, WHITE))
                x += width
        painter.add(rectangle(LEFT, y, RIGHT, y + 2.4, frame))
        for left in np.arange(LEFT + 5, RIGHT, 17):
            painter.add(rectangle(left, y + 0.2, left + 5, y + 2.2, (250, 230, 90)))
    for x in painter.positions(2, 30):
        painter.add(
            line(x + 10, TOP, x + 10, -6, 0.6, DARK),
            rectangle(x, -6, x + 22, 4, painter.bright()),
            rectangle(x + 4, -3, x + 18, 0, WHITE),
        )
    start, speed, y = rng.uniform(20, 108), rng.choice([-1, 1]) * rng.uniform(6, 24), rng.uniform(74, 88)
    goods = [painter.bright() for _ in range(3)]

    def cart(time: float) -> list[Shape]:
        x, way = start + speed * (time - 1), np.sign(speed)
        steel = (190, 195, 205)
        return [
            *[
                rectangle(x - 8 + 5 * i, y - 25 - 2 * (i % 2), x - 3 + 5 * i, y - 18, color)
                for i, color in enumerate(goods)
            ],
            polygon(
                steel,
                (x - way * 12, y - 20),
                (x + way * 12, y - 18),
                (x + way * 9, y - 8),
                (x - way * 9, y - 8),
            ),
            *[line(x + dx, y - 19, x + 0.75 * dx, y - 8, 0.5, (90, 95, 105)) for dx in (-8, -3, 3, 8)],
            line(x - way * 9, y - 8, x - way * 9, y - 3, 0.8, steel),
            line(x + way * 9, y - 8, x - way * 9, y - 4, 0.8, steel),
            line(x - way * 12, y - 20, x - way * 16, y - 24, 1.4, (220, 60, 50)),
            *[ellipse(x + side * 8, y - 1.8, 1.8, 1.8, DARK) for side in (-1, 1)],
        ]

    painter.move(y, cart)


def _add_desk(painter: Painter, x: float, desk: Color) -> None:
    """Add a desk with a book, in front of the people."""
    book = painter.bright()

    def table(time: float) -> list[Shape]:
        return [
            *[rectangle(x + dx, 86, x + dx + 2, BOTTOM, (70, 72, 78)) for dx in (2, 22)],
            polygon(desk, (x + 3, 82), (x + 23, 82), (x + 26, 87), (x, 87)),
            polygon(book, (x + 8, 82.5), (x + 15, 82.5), (x + 15, 85), (x + 7, 85)),
        ]

    painter.move(94.0, table)


def classroom(painter: Painter) -> None:
    """A blackboard with writing, a clock, posters and rows of desks."""
    rng = painter.rng
    edge = rng.uniform(58, 64)
    _room(painter, edge, (220, 205, 165), (165, 130, 95))
    board = painter.near((35, 80, 60), 14)
    left, right = rng.uniform(8, 26), rng.uniform(96, 116)
    painter.add(
        rectangle(left - 2, 2, right + 2, edge - 16, WOOD), rectangle(left, 4, right, edge - 18, board)
    )
    for y in np.arange(9, edge - 22, 6):
        x = left + 4
        while x < right - 10 and rng.random() < 0.9:
            width = rng.uniform(3, 9)
            points = np.linspace(x, x + width, 5)
            heights = y + rng.uniform(-1.4, 1.4, size=5)
            painter.add(
                *[
                    line(*a, *b, 0.4, (225, 235, 230))
                    for a, b in zip(zip(points, heights), zip(points[1:], heights[1:]))
                ]
            )
            x += width + 3
    painter.add(rectangle(left, edge - 18, right, edge - 16.5, WHITE))
    x_clock = rng.choice([left - 12, right + 12])
    phase = rng.random()

    def clock(time: float) -> list[Shape]:
        hand = 2 * np.pi * (phase + 0.25 * time)
        return [
            ellipse(x_clock, 10, 7, 7, WHITE),
            line(x_clock, 10, x_clock + 5 * np.sin(hand), 10 - 5 * np.cos(hand), 1, (200, 40, 40)),
            line(x_clock, 10, x_clock + 3 * np.sin(phase * 9), 10 - 3 * np.cos(phase * 9), 1.2, DARK),
        ]

    painter.move(1.0, clock)
    for x in (rng.uniform(-16, -4), rng.uniform(126, 138)):
        painter.add(rectangle(x - 7, 22, x + 7, 40, painter.bright()))
    desk = painter.near((205, 165, 105))
    for x in painter.positions(int(rng.integers(3, 5)), 26):
        _add_desk(painter, x, desk)
    globe = rng.uniform(20, 108)
    spin = rng.uniform(1, 3)

    def turning_globe(time: float) -> list[Shape]:
        part = (spin * time) % 2 - 1
        return [
            rectangle(globe - 4, edge + 1, globe + 4, edge + 3, WOOD),
            ellipse(globe, edge - 5, 6, 6, (70, 130, 200)),
            ellipse(globe + 4 * part, edge - 6, 2.4 * (1.1 - abs(part)), 3, (90, 170, 80)),
        ]

    painter.move(edge + 3, turning_globe)
