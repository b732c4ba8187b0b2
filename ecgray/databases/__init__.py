"""Sources of records: one module per database, and the table of their names."""

from ecgray.databases.cinc2017 import CinC2017
from ecgray.databases.folder import Folder
from ecgray.databases.icentia11k import Icentia11k
from ecgray.databases.mitdb import MitBih
from ecgray.databases.record import BEATS, RHYTHMS, Database, Record, RecordRefused, Reference
from ecgray.databases.synthetic import Synthetic

DATABASES: dict[str, type[Database]] = {
    database.name: database for database in (Icentia11k, MitBih, CinC2017, Folder, Synthetic)
}
Database.table = DATABASES

__all__ = [
    "BEATS",
    "DATABASES",
    "RHYTHMS",
    "CinC2017",
    "Database",
    "Folder",
    "Icentia11k",
    "MitBih",
    "Record",
    "RecordRefused",
    "Reference",
    "Synthetic",
]
