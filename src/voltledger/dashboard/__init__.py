"""The live page at `/`: server-rendered, refreshed in place, no script from elsewhere.

`create_site` is the API's application with the page added; `Sessions` are the logins of browsers.
"""

from voltledger.dashboard.logins import Sessions
from voltledger.dashboard.site import create_site

__all__ = ["Sessions", "create_site"]
