"""Make `legacy_uploads.csv`: the export of the system that Pantry replaces, with faults planted in known numbers.

    python data/make_legacy_uploads.py                 writes data/legacy_uploads.csv and data/manifest.toml
    python data/make_legacy_uploads.py --out PATH      writes the CSV to PATH and leaves the manifest alone
    python data/make_legacy_uploads.py --manifest      writes data/manifest.toml from the data files as they are

The package names come from `packages.csv`; people, teams and uploads are invented. The same bytes come out on every
machine and every supported Python: the only source of chance is `random.Random(SEED).random()`, whose sequence Python
guarantees, and no floating-point function that depends on the platform's mathematics library is called.

Standard library only.
"""
# ruff: noqa: RUF001  (names are written as their owners write them)

import argparse
import csv
import hashlib
import io
import json
import random
import re
import sys
import unicodedata
from bisect import bisect
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta, timezone
from itertools import accumulate
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20261001
COLUMNS = ("upload_id", "package", "version", "uploader_name", "uploader_email", "team", "uploaded_at", "size_bytes",
           "sha256", "license", "yanked")  # fmt: skip

# What is planted, and how often. Each number can be counted in the file; data/README.md says what each one means.
PLANTED = {
    "rows": 20_000,
    "exact_duplicates": 40,
    "reuploads": 120,
    "reuploads_respelled": 30,
    "conflicting_digests": 75,
    "conflicting_digests_respelled": 15,
    "packages": 420,
    "packages_in_several_spellings": 150,
    "package_respelled": 2_500,
    "version_not_pep440": 90,
    "version_v_prefix": 400,
    "version_zero_dropped": 250,
    "version_leading_zero": 60,
    "version_prerelease_respelled": 40,
    "version_order_against_time": 200,
    "people": 150,
    "people_renamed": 3,
    "people_in_several_spellings": 60,
    "people_moved_team": 6,
    "names_of_two_people": 2,
    "email_upper_case": 700,
    "email_plus_tag": 500,
    "email_old_domain": 400,
    "email_alias_domain": 150,
    "teams": 12,
    "time_iso_z": 7_885,
    "time_iso_offset": 5_000,
    "time_naive": 2_600,
    "time_us": 1_800,
    "time_german": 1_500,
    "time_epoch": 1_200,
    "date_february_31": 12,
    "date_month_13": 9,
    "date_year_1970": 15,
    "date_year_2099": 6,
    "licenses": 6,
    "license_spellings": 20,
    "packages_relicensed": 8,
    "empty_uploader_name": 20,
    "empty_team": 60,
    "empty_uploaded_at": 15,
    "empty_license": 150,
    "license_full_text": 12,
    "uploader_name_too_long": 6,
    "uploader_name_mojibake": 45,
    "rows_not_utf8": 8,
}

BEGIN = datetime(2016, 1, 4, tzinfo=UTC)
END = datetime(2026, 9, 25, tzinfo=UTC)
NEW_DOMAIN = datetime(2020, 1, 1, tzinfo=UTC)  # uploads before it may carry the old domain
GAP = 36 * 3600  # seconds between two releases of a package: more than any two time zones are apart

TEAMS = ("Billing", "Checkout", "Data Platform", "Design Systems", "Fraud", "Identity", "Infrastructure", "Logistics",
         "Machine Learning", "Mobile", "Search", "Warehouse")  # fmt: skip

# Ten people each. Invented: given names and surnames of one language, put side by side in the order they stand here.
PEOPLE = (
    ("Anna Péter Zsófia László Eszter Gábor Réka Balázs Dóra István",
     "Kovács Szabó Tóth Horváth Varga Kiss Molnár Németh Farkas Balogh"),
    ("Jürgen Käthe Björn Sabine Günther Ulrike Jörg Monika Rüdiger Heike",
     "Müller Schäfer Weiß Krüger Lange Böhm Vogel Größ Hübner Brandt"),
    ("Aurélie Rémi Chloé Loïc Hélène Gaël Zoé Benoît Noémie Jérôme",
     "Lefèvre Moreau Garnier Besançon Girard Dupré Faure Mallet Crépin Renaud"),
    ("María José Lucía Andrés Inés Álvaro Begoña Joaquín Rocío Íñigo",
     "Núñez García Peña Ibáñez Muñoz Castro Rubio Gómez Suárez Vidal"),
    ("João Inês Tomás Conceição Gonçalo Beatriz Simão Lurdes Rúben Leonor",
     "Gonçalves Simões Araújo Brandão Falcão Magalhães Assunção Pires Leitão Moura"),
    ("Łukasz Małgorzata Wojciech Grażyna Paweł Świętosława Michał Bożena Stanisław Zofia",
     "Wójcik Dąbrowski Kamiński Zieliński Szymański Woźniak Kozłowski Jabłoński Król Mróz"),
    ("Jiří Božena Tomáš Lenka Ondřej Šárka Matěj Hana Vojtěch Alžběta",
     "Novák Dvořák Černý Procházka Kučera Veselý Horák Němec Pokorný Marek"),
    ("Søren Åse Bjørn Ingrid Håkon Maja Øystein Linnéa Göran Freja",
     "Ødegård Lindström Sørensen Bergström Nygård Hansen Åkesson Dahl Sjöberg Holm"),
    ("Ayşe Emre Çiğdem Barış Gülşen Kağan Özlem Tuğba Oğuz Şebnem",
     "Yılmaz Öztürk Çelik Şahin Doğan Koç Aydın Güneş Arslan Erdoğmuş"),
    ("Wei Ming Jing Hao Xiulan Tao Yan Lei Fang Jun",
     "Zhang Li Wang Chen Liu Zhao Huang Wu Zhou Xu"),
    ("Haruto Yui Sota Aoi Ren Hina Kaito Sakura Daiki Mei",
     "Sato Suzuki Takahashi Tanaka Watanabe Ito Yamamoto Nakamura Kobayashi Kato"),
    ("Aarav Priya Rohan Ananya Vikram Deepa Arjun Kavya Sanjay Meera",
     "Sharma Patel Iyer Nair Reddy Banerjee Gupta Menon Joshi Rao"),
    ("Omar Layla Youssef Amira Karim Salma Tariq Noor Hassan Dina",
     "Haddad Mansour Khalil Nasser Farouk Saleh Aziz Hamdan Darwish Rahman"),
    ("Chinedu Amara Kwame Abena Thabo Naledi Wanjiru Kamau Zainab Tendai",
     "Okafor Adeyemi Mensah Owusu Mokoena Dlamini Njoroge Otieno Diallo Moyo"),
    ("Ellen Brian Keisha Ethan Megan Tyler Grace Connor Olivia Dylan",
     "O'Brien Carter Washington Brooks Fitzgerald Hughes Murphy Bennett Parker Reed"),
)  # fmt: skip
NATIVE = {  # written in their own script, with the address their owner uses
    "Wei Zhang": "张伟", "Yui Suzuki": "鈴木結衣", "Layla Mansour": "ليلى منصور", "Priya Patel": "प्रिया पटेल",
}  # fmt: skip
NAMESAKES = {149: 148, 139: 127}  # person -> whose name they share
RENAMED = {34: "Ortega", 75: "Svensson", 142: "Miller"}  # person -> surname after the wedding
LETTERS = str.maketrans({"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "ß": "ss", "ı": "i", "'": ""})

LICENSES = {
    "MIT": ("MIT", "MIT License", "mit", "The MIT License"),
    "Apache-2.0": ("Apache-2.0", "Apache 2.0", "Apache License, Version 2.0", "ASL 2.0"),
    "BSD-3-Clause": ("BSD-3-Clause", "BSD 3-Clause", "New BSD", "BSD (3 clause)"),
    "GPL-3.0-only": ("GPL-3.0-only", "GPLv3", "GNU GPL v3"),
    "MPL-2.0": ("MPL-2.0", "MPL 2.0", "Mozilla Public License 2.0"),
    "LicenseRef-Proprietary": ("Proprietary", "internal use only"),
}
FULL_TEXT = (
    'Permission is hereby granted, free of charge, to any person obtaining a copy of this software (the "Software"),\n'
    "to deal in the Software without restriction, including the rights to use, copy, modify, merge, publish,\n"
    "distribute, sublicense and sell copies of the Software, subject to the following condition:\n"
    "this notice shall be included in all copies or substantial portions of the Software."
)


class Dice(random.Random):
    """Chance whose results depend on `random()` alone, the one method whose sequence Python promises to keep."""

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def pick(self, things):
        return things[self.below(len(things))]

    def draw(self, things, count: int) -> list:
        """`count` different things. Raises ValueError when there are not that many."""
        pool = list(things)
        if count > len(pool):
            raise ValueError(f"{count} wanted, {len(pool)} there")
        for i in range(count):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]

    def zipf(self, cumulated: list[float]) -> int:
        return bisect(cumulated, self.random() * cumulated[-1])


def shares(count: int, offset: int) -> list[float]:
    """Cumulated Zipf-Mandelbrot weights 1 / (k + offset)."""
    return list(accumulate(1 / (k + offset) for k in range(1, count + 1)))


def ascii_name(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(LETTERS))
    return "".join(c for c in plain if not unicodedata.combining(c)).lower()


class Person:
    """Somebody who uploads: names, address and team, each with the time it changes where it does."""

    def __init__(self, number: int, given: str, surname: str, dice: Dice) -> None:
        self.number = number
        self.name = self.later_name = NATIVE.get(f"{given} {surname}", f"{given} {surname}")
        twin = "2" if number in NAMESAKES else ""
        self.local = self.later_local = f"{ascii_name(given)}.{ascii_name(surname)}{twin}"
        self.contractor = number % 7 == 3  # writes from a private mailbox
        self.domain = "postbox.example" if self.contractor else "example.com"
        self.team = self.later_team = number % len(TEAMS)
        self.changes = BEGIN + timedelta(days=1_800 + dice.below(900))
        if number in RENAMED:
            self.later_name = f"{given} {RENAMED[number]}"
            self.later_local = f"{ascii_name(given)}.{RENAMED[number].lower()}"


def make_people(dice: Dice) -> list[Person]:
    names = [pair for given, surname in PEOPLE for pair in zip(given.split(), surname.split(), strict=True)]
    for person, other in NAMESAKES.items():
        names[person] = names[other]
    people = [Person(n, *pair, dice) for n, pair in enumerate(names)]
    special = {*RENAMED, *NAMESAKES, *NAMESAKES.values()}
    for person in dice.draw([p for p in people if p.number not in special], PLANTED["people_moved_team"]):
        person.later_team = (person.team + 5) % len(TEAMS)
    return people


class Upload:
    """One row before it is written: what is true, then what was typed."""

    def __init__(self, at: datetime, package: str, version: str, person: Person, **facts) -> None:
        self.at, self.package, self.version, self.person = at, package, version, person
        self.backport = self.frozen = self.faulty = False
        self.__dict__.update(facts)
        later = at >= person.changes
        self.name = person.later_name if later else person.name
        self.local = person.later_local if later else person.local
        self.team = TEAMS[person.later_team if later else person.team]
        self.package_typed, self.version_typed = package, version
        self.email = f"{self.local}@{person.domain}"
        self.time_form, self.time = "iso_z", None
        self.encoding = "utf-8"

    @property
    def plain(self) -> bool:
        return not (self.frozen or self.faulty or self.backport)


def semantic_versions(count: int, backports: set[int], dice: Dice) -> list[tuple[str, bool]]:
    """`count` rising versions; at the places in `backports` a fix for an older minor version instead."""
    major, minor, patch, candidate, owed = 0, 1, 0, False, 0
    lines: dict[tuple[int, int], int] = {}
    found = []
    for i in range(count):
        owed += i in backports
        older = [line for line in lines if line < (major, minor)]
        if owed and older and not candidate:
            owed -= 1
            line = dice.pick(older)
            lines[line] += 1
            found.append((f"{line[0]}.{line[1]}.{lines[line]}", True))
            continue
        if candidate:
            candidate = False
        elif i:
            chance = dice.random()
            if chance < 0.01:
                major, minor, patch = major + 1, 0, 0
            elif chance < 0.30:
                minor, patch, candidate = minor + 1, 0, chance < 0.06
            else:
                patch += 1
        if not candidate:
            lines[major, minor] = patch
        found.append((f"{major}.{minor}.{patch}" + ("rc1" if candidate else ""), False))
    if owed:
        raise ValueError("not every backport found an older version")
    return found


def calendar_versions(times: list[datetime]) -> list[tuple[str, bool]]:
    """`2021.3.1`, `2021.3.2`, ...: year, month, number within the month."""
    months: Counter[tuple[int, int]] = Counter()
    found = []
    for at in times:
        months[at.year, at.month] += 1
        found.append((f"{at.year}.{at.month}.{months[at.year, at.month]}", False))
    return found


def release_times(count: int, dice: Dice) -> list[datetime]:
    """`count` times, rising, at least GAP apart."""
    whole = int((END - BEGIN).total_seconds())
    start = dice.below(max(1, (whole - 2 * count * GAP) * 3 // 4))
    free = whole - start - count * GAP
    at = sorted(dice.below(free) for _ in range(count))
    return [BEGIN + timedelta(seconds=start + seconds + i * GAP) for i, seconds in enumerate(at)]


def digest(*parts: object) -> str:
    return hashlib.sha256(":".join(map(str, (SEED, *parts))).encode()).hexdigest()


def make_uploads(names: list[str], people: list[Person], dice: Dice) -> list[Upload]:
    """The history without a fault: every release once, in the order of time."""
    base = PLANTED["rows"] - sum(PLANTED[k] for k in ("exact_duplicates", "reuploads", "conflicting_digests"))
    counts, weights = Counter({name: 4 for name in names}), shares(len(names), 6)
    while counts.total() < base:
        counts[names[dice.zipf(weights)]] += 1
    calendar = {name for k, name in enumerate(names) if k % 7 == 5}
    long = [name for name in names if name not in calendar and counts[name] >= 60]
    able = [(name, i) for name in long for i in range(30, counts[name] - 15)]
    backports = defaultdict(set)
    for name, i in dice.draw(able, PLANTED["version_order_against_time"]):
        backports[name].add(i)
    member_weights = {}
    relicensed = set(dice.draw([n for n in names if counts[n] >= 40], PLANTED["packages_relicensed"]))
    uploads = []
    for k, name in enumerate(names):
        times = release_times(counts[name], dice)
        if name in calendar:
            versions = calendar_versions(times)
        else:
            versions = semantic_versions(len(times), backports[name], dice)
        license_, size = dice.zipf(shares(len(LICENSES), 1)), (2_000 + dice.below(8_000)) * 2 ** dice.below(10)
        for i, (at, (version, backport)) in enumerate(zip(times, versions, strict=True)):
            person = dice.pick(people)  # one in twenty helps another team
            if dice.random() < 0.95:
                team = [p for p in people if (p.later_team if at >= p.changes else p.team) == k % len(TEAMS)]
                weights = member_weights.setdefault(len(team), shares(len(team), 3))
                person = team[dice.zipf(weights)]
            kind = (license_ + (name in relicensed and i >= counts[name] // 2)) % len(LICENSES)
            uploads.append(
                Upload(
                    at, name, version, person, backport=backport, calendar=name in calendar,
                    licensed=list(LICENSES)[kind], size=size + i * 97 + dice.below(900), sha256=digest(name, version),
                    yanked=dice.random() < 0.03,
                )
            )  # fmt: skip
    return uploads


def again(upload: Upload, seconds: int, **changed) -> Upload:
    """`upload` a second time, later."""
    facts = {k: getattr(upload, k) for k in ("calendar", "licensed", "size", "sha256", "yanked")} | changed
    return Upload(upload.at + timedelta(seconds=seconds), upload.package, upload.version, upload.person, **facts)


def respell_package(name: str, dice: Dice) -> str:
    """Another spelling that PEP 503 holds to be the same name."""
    parts = name.split("-")
    spellings = ["_".join(parts), ".".join(parts), name.upper(), "-".join(p.capitalize() for p in parts),
                 "_".join(p.capitalize() for p in parts), "--".join(parts)]  # fmt: skip
    return dice.pick([s for s in spellings if s != name])


def not_pep440(version: str, dice: Dice) -> str:
    return dice.pick((f"{version}-SNAPSHOT", f"release-{version}", f"{version}_build{dice.below(90) + 10}",
                      f"{version} (final)", f"{version}-hotfix", version.replace(".", ",")))  # fmt: skip


class Planter:
    """Puts the faults in. Each row gets at most one of those that make a field unusable."""

    def __init__(self, uploads: list[Upload], people: list[Person], dice: Dice) -> None:
        self.uploads, self.people, self.dice = uploads, people, dice

    def draw(self, count: int, fits=lambda u: True) -> list[Upload]:
        """`count` untouched uploads; from now on they count as faulty."""
        drawn = self.dice.draw([u for u in self.uploads if u.plain and fits(u)], count)
        for upload in drawn:
            upload.faulty = True
        return drawn

    def second_uploads(self, several: set[str]) -> None:
        """Re-uploads with the same digest, and uploads of the same version with another one."""
        dice = self.dice
        for kind in ("reuploads", "conflicting_digests"):
            drawn = dice.draw([u for u in self.uploads if u.plain and u.package in several], PLANTED[kind])
            for i, first in enumerate(drawn):
                second = again(first, 300 + dice.below(9_000))
                if kind == "conflicting_digests":
                    second.sha256 = digest(first.package, first.version, 2)
                    second.size += 1 + dice.below(500)
                if i < PLANTED[f"{kind}_respelled"]:
                    if i % 2:
                        second.package_typed = respell_package(first.package, dice)
                    else:
                        second.version_typed = f"v{first.version}"
                first.frozen = second.frozen = True
                self.uploads.append(second)

    def packages(self, several: set[str]) -> None:
        done = sum(u.package_typed != u.package for u in self.uploads)
        free = defaultdict(list)
        for upload in self.uploads:
            if upload.plain and upload.package in several:
                free[upload.package].append(upload)
        # The first keeps the normal spelling and the second gets another, so that every one of them has several.
        for rows in free.values():
            rows[1].package_typed = respell_package(rows[1].package, self.dice)
        rest = [u for name in sorted(free) for u in free[name][2:]]
        for upload in self.dice.draw(rest, PLANTED["package_respelled"] - done - len(free)):
            upload.package_typed = respell_package(upload.package, self.dice)

    def versions(self) -> None:
        dice, with_backports = self.dice, {u.package for u in self.uploads if u.backport}
        for upload in self.draw(PLANTED["version_not_pep440"], lambda u: u.package not in with_backports):
            upload.version_typed = not_pep440(upload.version, dice)
        done = sum(u.version_typed == f"v{u.version}" for u in self.uploads)

        def separate(version: str) -> str:
            return version.replace("rc", dice.pick(("-rc.", "RC")))

        def one_digit_month(upload: Upload) -> bool:
            return upload.calendar and re.search(r"\.\d\.", upload.version) is not None

        rewritings = (
            ("version_v_prefix", done, lambda v: f"v{v}", lambda u: True),
            ("version_zero_dropped", 0, lambda v: v.removesuffix(".0"), lambda u: u.version.endswith(".0")),
            ("version_leading_zero", 0, lambda v: re.sub(r"\.(\d)\.", r".0\1.", v), one_digit_month),
            ("version_prerelease_respelled", 0, separate, lambda u: "rc" in u.version),
        )
        for key, done, rewrite, fits in rewritings:
            able = [u for u in self.uploads if u.plain and u.version_typed == u.version and fits(u)]
            for upload in dice.draw(able, PLANTED[key] - done):
                upload.version_typed = rewrite(upload.version)

    def emails(self) -> None:
        dice = self.dice
        ordinary = [p for p in self.people if p.number not in RENAMED]
        contractors = [p for p in ordinary if p.contractor]
        early = {u.person.number for u in self.uploads if u.at < NEW_DOMAIN}
        employees = [p for p in ordinary if not p.contractor and p.number in early]
        of_many = dice.draw(contractors, 12) + dice.draw(employees, PLANTED["people_in_several_spellings"] - 12)
        free = {p.number: [u for u in self.uploads if u.person is p and u.plain][1:] for p in of_many}

        def usual(u: Upload) -> str:
            return f"{u.local}@{u.person.domain}"

        def alias(u: Upload) -> str:
            return f"{u.local.replace('.', '')}@postboxmail.example"

        def capitals(u: Upload) -> str:
            return dice.pick((u.email.upper(), f"{u.local.title()}@{u.person.domain}"))

        def tagged(u: Upload) -> str:
            return f"{u.local}+{dice.pick(('ci', 'build', 'laptop'))}@{u.person.domain}"

        kinds = (
            ("email_alias_domain", lambda u: u.person.contractor, alias),
            (
                "email_old_domain",
                lambda u: not u.person.contractor and u.at < NEW_DOMAIN,
                lambda u: f"{u.local}@example.org",
            ),
            ("email_upper_case", lambda u: True, capitals),
            ("email_plus_tag", lambda u: True, tagged),
        )
        for key, fits, rewrite in kinds:
            able = [[u for u in rows if fits(u) and u.email == usual(u)] for rows in free.values()]
            first = [rows[0] for rows in able if rows]  # everybody who can gets one of each kind
            rest = [u for rows in able for u in rows[1:]]
            for upload in first + dice.draw(rest, PLANTED[key] - len(first)):
                upload.email = rewrite(upload)

    def fields(self) -> None:
        """Empty, over-long and wrongly encoded fields."""
        dice = self.dice
        for upload in self.uploads:
            spellings = LICENSES[upload.licensed]
            upload.license = spellings[0] if dice.random() < 0.6 else dice.pick(spellings)
        for column in ("name", "team", "license"):
            key = "empty_uploader_name" if column == "name" else f"empty_{column}"
            for upload in self.draw(PLANTED[key]):
                setattr(upload, column, "")
        for upload in self.draw(PLANTED["license_full_text"], lambda u: u.licensed == "MIT"):
            upload.license = FULL_TEXT
        for upload in self.draw(PLANTED["uploader_name_too_long"]):
            upload.name = "; ".join([upload.name, *(p.name for p in dice.draw(self.people, 9))])
        for upload in self.draw(PLANTED["uploader_name_mojibake"], lambda u: latin1(u.name)):
            upload.name = upload.name.encode("utf-8").decode("latin-1")
        for upload in self.draw(PLANTED["rows_not_utf8"], lambda u: latin1(u.name)):
            upload.encoding = "latin-1"

    def times(self) -> None:
        """Forms, then dates that cannot be. Whatever is left is ISO 8601 in UTC."""
        dice = self.dice
        impossible = (
            ("empty_uploaded_at", "", ""),
            ("date_february_31", "iso_z", "{y}-02-31T{t:%H:%M:%S}Z"),
            ("date_month_13", "iso_z", "{y}-13-{t:%d}T{t:%H:%M:%S}Z"),
            ("date_year_1970", "iso_z", "1970-01-01T00:00:00Z"),
            ("date_year_2099", "iso_z", "2099-12-31T23:59:59Z"),
        )
        other = {  # of every three such dates one is written in another form
            "date_february_31": ("german", "31.02.{y} {t:%H:%M}"),
            "date_month_13": ("german", "{t:%d}.13.{y} {t:%H:%M}"),
            "date_year_1970": ("epoch", "0"),
        }
        for key, form, pattern in impossible:
            for i, upload in enumerate(self.draw(PLANTED[key])):
                upload.time_form, written = other[key] if key in other and i % 3 == 2 else (form, pattern)
                upload.time = written.format(y=upload.at.year, t=upload.at)
        left = [u for u in self.uploads if u.time is None]
        for form in ("iso_offset", "naive", "us", "german", "epoch"):
            done = sum(u.time_form == form for u in self.uploads)
            for upload in dice.draw([u for u in left if u.time_form == "iso_z"], PLANTED[f"time_{form}"] - done):
                upload.time_form = form
        for upload in left:
            upload.time = write_time(upload.at, upload.time_form, dice)


def latin1(name: str) -> bool:
    """Whether the name is not ASCII, can be written as Latin-1, and its UTF-8 bytes are all printable there."""
    printable = all(b < 0x80 or b >= 0xA0 for b in name.encode())
    return not name.isascii() and printable and all(ord(c) < 256 for c in name)


def write_time(at: datetime, form: str, dice: Dice) -> str:
    def zone(minutes: int) -> datetime:
        return at.astimezone(timezone(timedelta(minutes=minutes)))

    if form == "iso_offset":
        return zone(dice.pick((60, 120, 330, 540, -300, -480))).isoformat(timespec="seconds")
    if form == "us":
        return zone(-300).strftime("%m/%d/%Y %I:%M %p")
    if form == "german":
        return zone(60).strftime("%d.%m.%Y %H:%M")
    if form == "epoch":
        return str(int(at.timestamp()))
    return at.strftime("%Y-%m-%dT%H:%M:%SZ" if form == "iso_z" else "%Y-%m-%d %H:%M:%S")


def make(package_names: list[str]) -> bytes:
    """The whole file."""
    dice = Dice(SEED)
    names = dice.draw(package_names, PLANTED["packages"])
    people = make_people(dice)
    uploads = make_uploads(names, people, dice)
    several = set(dice.draw([n for n in names if "-" in n], PLANTED["packages_in_several_spellings"]))
    planter = Planter(uploads, people, dice)
    planter.second_uploads(several)
    uploads.sort(key=lambda u: (u.at, u.package, u.sha256))
    planter.versions()
    planter.packages(several)
    planter.emails()
    planter.fields()
    planter.times()
    number, lines = 100_000, []
    for upload in uploads:
        number += 1 + dice.below(3)
        lines.append(line(number, upload))
    untouched = [
        i for i, u in enumerate(uploads)
        if u.plain and u.time_form == "iso_z" and u.version_typed == u.version and u.package_typed == u.package
        and u.email == f"{u.local}@{u.person.domain}"
    ]  # fmt: skip
    for i in sorted(dice.draw(untouched, PLANTED["exact_duplicates"]), reverse=True):
        lines.insert(i + 1 + dice.below(len(lines) - i), lines[i])
    return line_of(COLUMNS).encode() + b"".join(lines)


def line_of(fields) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(fields)
    return out.getvalue()


def line(number: int, u: Upload) -> bytes:
    fields = (number, u.package_typed, u.version_typed, u.name, u.email, u.team, u.time, u.size, u.sha256, u.license,
              "true" if u.yanked else "false")  # fmt: skip
    return line_of(fields).encode(u.encoding)


def manifest(folder: Path) -> str:
    """The text of `manifest.toml` for the data files in `folder`: bytes, rows or recorded exchanges, SHA-256."""
    parts = ["# Made by `python data/make_legacy_uploads.py --manifest`. Read by playbook/kit/data.py.\n"]
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*.json")]):
        content = path.read_bytes()
        if path.suffix == ".json":
            rows = len(json.loads(content)["exchanges"])
        else:
            rows = sum(1 for _ in csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline=""))) - 1
        sha256 = hashlib.sha256(content).hexdigest()
        parts.append(f'\n["{path.name}"]\nbytes = {len(content)}\nrows = {rows}\nsha256 = "{sha256}"\n')
    return "".join(parts)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make data/legacy_uploads.csv and print the planted faults.")
    parser.add_argument("--out", type=Path, help="write the CSV here and leave the manifest alone")
    parser.add_argument("--manifest", action="store_true", help="write data/manifest.toml only")
    arguments = parser.parse_args(argv)
    try:
        if not arguments.manifest:
            with open(HERE / "packages.csv", encoding="utf-8", newline="") as file:
                content = make([row["name"] for row in csv.DictReader(file)])
            (arguments.out or HERE / "legacy_uploads.csv").write_bytes(content)
            for name, number in PLANTED.items():
                print(f"{name:32} {number:6,}")
        if not arguments.out:
            (HERE / "manifest.toml").write_bytes(manifest(HERE).encode())
    except OSError as error:
        print(f"{error.filename}: {error.strerror}: use a whole clone, and a path you may write to", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
