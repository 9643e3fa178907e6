"""Prices from flags or a file: `--price h100=2.50 --kwh 0.25`, or `--prices prices.yaml`.

Decides nothing: money is shown beside energy and never ranks an option. Prices are numbers in whatever currency the
reader thinks in.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

import yaml

from lowbeam.errors import BadInput
from lowbeam.sizing.cost import Prices

HIGHEST_PRICE = 10**12
"""Of anything, in any currency: more has no place in a table."""
_EXAMPLE = 'acceleratorHour: {h100: "2.50"}, kilowattHour: "0.25"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for prices; all of them optional."""
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="CLASS=PRICE,...",
        help="what an accelerator costs per hour, for example h100=2.50,l4=0.60",
    )
    parser.add_argument("--kwh", metavar="PRICE", help="what a kilowatt-hour costs, for example 0.25")
    parser.add_argument("--prices", metavar="FILE", help=f"both from a file: {_EXAMPLE}")


def read_prices(args: argparse.Namespace) -> Prices | None:
    """The prices that were given, flags over the file; None without any. BadInput names the flag or field."""
    hours, kilowatt_hour = _of_file(args.prices) if args.prices else ({}, None)
    for part in filter(None, (part.strip() for text in args.price for part in text.split(","))):
        name, _, price = (piece.strip() for piece in part.partition("="))
        if not name or not price:
            raise BadInput(f'--price: "{part}" is not CLASS=PRICE (write for example h100=2.50)')
        hours[name.lower()] = _price(price, f"--price: {name}")
    if args.kwh is not None:
        kilowatt_hour = _price(args.kwh, "--kwh")
    return Prices(hours, kilowatt_hour) if hours or kilowatt_hour is not None else None


def _of_file(path: str) -> tuple[dict[str, Decimal], Decimal | None]:
    try:
        raw = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - only text
    except (OSError, UnicodeDecodeError) as error:
        said = "is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise BadInput(f"--prices: {path}: {said}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"--prices: {path}: not valid YAML: {error}") from error
    unknown = sorted(set(raw) - {"acceleratorHour", "kilowattHour"}) if isinstance(raw, dict) else ["?"]
    if unknown or not isinstance(raw.get("acceleratorHour", {}), Mapping):
        raise BadInput(f"--prices: {path}: not in the form {_EXAMPLE}")
    hours = {
        str(name).lower(): _price(price, f"--prices: {path}: acceleratorHour.{name}")
        for name, price in raw.get("acceleratorHour", {}).items()
    }
    energy = raw.get("kilowattHour")
    return hours, None if energy is None else _price(energy, f"--prices: {path}: kilowattHour")


def _price(text: object, where: str) -> Decimal:
    try:
        price = Decimal(str(text))
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or price < 0:
        raise BadInput(f'{where}: "{text}" is not a price (write a number without a currency, for example 2.50)')
    if price > HIGHEST_PRICE:
        raise BadInput(f'{where}: "{text}" is above {HIGHEST_PRICE:,}; take a larger unit of money')
    return price
