"""The catalogue as one object: every subject's calls, on one store."""

from voltledger.services.catalog.answers import Answers
from voltledger.services.catalog.books import Books
from voltledger.services.catalog.feed import Feed
from voltledger.services.catalog.findings import Findings
from voltledger.services.catalog.keys import Keys
from voltledger.services.catalog.organizations import Organizations
from voltledger.services.catalog.people import Users, Wallets
from voltledger.services.catalog.sessions import Sessions
from voltledger.services.catalog.stations import Stations
from voltledger.services.catalog.tariffs import Tariffs
from voltledger.services.catalog.tokens import Tokens


class Catalog(Stations, Tokens, Users, Wallets, Organizations, Tariffs, Keys, Sessions, Findings, Books, Feed, Answers):
    """Everything that people manage and look at; see the package for its rules.

    `ocpp` is where stations connect; `currency` the one of users and tariffs that name none.
    """
