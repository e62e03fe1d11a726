"""The shop database of the embedded example, and the house conventions that its figures obey.

It is not a realistic business: it is built so that each convention changes the answers of the questions it governs.
The content does not depend on any seed of the run; `build_database(Path("shop.db"))` always writes the same rows.
"""

import os
import random
import sqlite3
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

CONVENTIONS: dict[str, str] = {
    "void": "Voided invoices never count: any figure taken from invoices keeps only rows with state <> 'void'.",
    "cents": "Money is stored in cents and reported in dollars: divide every amount by 100.0.",
    "active": "An active customer has the status 'active' or 'grace': a customer in the grace period still counts.",
    "fiscal": "The fiscal year starts in February: q1 runs from February to April, q4 ends in the next January.",
    "stock": "The reserve of a product is not for sale: what is available is stock - reserve.",
}

REGIONS = ("north", "south", "east", "west", "central", "coast")
SEGMENTS = ("retail", "school", "clinic", "hotel", "studio")
PLANS = ("basic", "plus", "pro", "max")
TOPICS = ("billing", "delivery", "damage", "returns", "login")
PRIORITIES = ("low", "normal", "urgent")
YEARS = ("2022", "2023", "2024", "2025")
# The last word of a product decides on its category.
CATEGORIES = {
    "lamp": "lighting",
    "desk": "desks",
    "chair": "seating",
    "shelf": "storage",
    "pad": "paper",
    "hub": "cables",
}
BRANDS = ("nova", "atlas", "linden", "corvo", "delta", "ember")
PRODUCTS = tuple(f"{brand} {noun}" for brand in BRANDS for noun in CATEGORIES)
REPS = (
    *("ana", "boris", "chloe", "dario", "elena", "felix", "greta", "hugo", "irene"),
    *("jonas", "karin", "louis", "mira", "nils", "olga", "pablo", "rosa", "sven"),
)

_SCHEMA = """
create table regions (region text primary key, country text not null, since text not null);
create table reps (rep_id integer primary key, rep text not null, region text not null references regions,
    hired text not null, salary integer not null);
create table customers (customer_id integer primary key, customer text not null,
    region text not null references regions, segment text not null, status text not null, signed text not null);
create table products (product_id integer primary key, product text not null, category text not null,
    brand text not null, price integer not null, stock integer not null, reserve integer not null);
create table subscriptions (subscription_id integer primary key, customer_id integer not null references customers,
    plan text not null, fee integer not null, started text not null);
create table invoices (invoice_id integer primary key, customer_id integer not null references customers,
    rep_id integer not null references reps, day text not null, state text not null, total integer not null);
create table lines (invoice_id integer not null references invoices, product_id integer not null references products,
    units integer not null, amount integer not null);
create table tickets (ticket_id integer primary key, customer_id integer not null references customers,
    topic text not null, priority text not null, opened text not null);
"""
_FIRST, _LAST = date(2022, 1, 1), date(2026, 1, 31)


def build_database(path: Path) -> None:
    """Writes the shop database to `path`, replacing what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(partial)) as connection:
        fill_database(connection)
    partial.replace(path)


def fill_database(connection: sqlite3.Connection) -> None:
    """Creates the tables in an empty database and inserts the rows."""
    rng = random.Random("taolake shop 1")
    connection.executescript(_SCHEMA)
    prices = _fill_catalog(connection, rng)
    _fill_customers(connection, rng)
    _fill_invoices(connection, rng, prices)
    connection.commit()


def _fill_catalog(connection: sqlite3.Connection, rng: random.Random) -> list[int]:
    """Inserts regions, reps and products; returns the price of each product in cents."""
    countries = ("norland", "sudland", "norland", "sudland", "midland", "midland")
    for region, country in zip(REGIONS, countries, strict=True):
        connection.execute("insert into regions values (?, ?, ?)", (region, country, _day(rng)))
    for index, rep in enumerate(REPS):
        salary = rng.randrange(3_200_000, 7_900_000, 12_300)
        person = (index + 1, rep, REGIONS[index % len(REGIONS)], _day(rng), salary)
        connection.execute("insert into reps values (?, ?, ?, ?, ?)", person)
    prices = []
    for index, product in enumerate(PRODUCTS):
        brand, noun = product.split()
        prices.append(rng.randrange(690, 24_000, 70))
        stock, reserve = rng.choice(((2, 10), (8, 10), (15, 15), (25, 20), (50, 25), (70, 25)))
        row = (index + 1, product, CATEGORIES[noun], brand, prices[-1], stock + rng.randrange(10), reserve)
        connection.execute("insert into products values (?, ?, ?, ?, ?, ?, ?)", row)
    return prices


def _fill_customers(connection: sqlite3.Connection, rng: random.Random, count: int = 480) -> None:
    """Inserts customers, their subscriptions and their support tickets."""
    for customer_id in range(1, count + 1):
        name = f"{rng.choice(('blue', 'green', 'old', 'grand', 'little'))} {rng.choice(('harbor', 'mill', 'garden'))}"
        status = rng.choices(("active", "grace", "paused", "closed"), (5, 3, 1, 2))[0]
        row = (customer_id, f"{name} {customer_id}", rng.choice(REGIONS), rng.choice(SEGMENTS), status, _day(rng))
        connection.execute("insert into customers values (?, ?, ?, ?, ?, ?)", row)
    for subscription_id in range(1, 2 * count + 1):
        plan = rng.choices(PLANS, (5, 4, 3, 2))[0]
        fee = (900, 1900, 4900, 9900)[PLANS.index(plan)] - 50 * rng.randrange(5)
        subscription = (subscription_id, rng.randint(1, count), plan, fee, _day(rng))
        connection.execute("insert into subscriptions values (?, ?, ?, ?, ?)", subscription)
    for ticket_id in range(1, 3 * count + 1):
        topic, priority = rng.choices(TOPICS, (5, 4, 3, 3, 2))[0], rng.choices(PRIORITIES, (3, 4, 2))[0]
        ticket = (ticket_id, rng.randint(1, count), topic, priority, _day(rng))
        connection.execute("insert into tickets values (?, ?, ?, ?, ?)", ticket)


def _fill_invoices(connection: sqlite3.Connection, rng: random.Random, prices: list[int], count: int = 2400) -> None:
    """Inserts invoices with one to three lines; a fifth of them is void, with larger quantities."""
    customers = connection.execute("select count(*) from customers").fetchone()[0]
    for invoice_id in range(1, count + 1):
        state = rng.choices(("paid", "open", "void"), (6, 2, 2))[0]
        total = 0
        for product_index in rng.sample(range(len(prices)), rng.randint(1, 3)):
            # Voids are often keying errors in the quantity; larger ones make them change rankings, not only sums.
            units = rng.randint(1, 9) * (4 if state == "void" else 1)
            total += units * prices[product_index]
            line = (invoice_id, product_index + 1, units, units * prices[product_index])
            connection.execute("insert into lines values (?, ?, ?, ?)", line)
        row = (invoice_id, rng.randint(1, customers), rng.randint(1, len(REPS)), _day(rng), state, total)
        connection.execute("insert into invoices values (?, ?, ?, ?, ?, ?)", row)


def _day(rng: random.Random) -> str:
    """Draws a day of the period the database covers, as YYYY-MM-DD."""
    return (_FIRST + timedelta(days=rng.randrange((_LAST - _FIRST).days + 1))).isoformat()
