"""Who calls, and where a call belongs.

The tenant comes from the API key alone (`tenants`). Application, job, stage and parent come from a chain of sources, of
which the first that knows a value counts:

1. `explicit`: headers and metadata for hocket itself;
2. `foreign.trace`: W3C trace context and baggage;
3. `foreign.client_headers`: session headers that clients send to anyone;
4. `foreign.body_fields`: the same in the body, which survives more hops;
5. `follow`: what the messages themselves show, against the `memory` of earlier calls.

A request of which nothing is known is a job of its own, and may be continued. Job ids belong to a tenant: no tenant can
name, read or end another's job.
"""

from hocket.gateway.identity.claim import DEFAULT_APP, DEFAULT_STAGE, Claim
from hocket.gateway.identity.explicit import HEADERS, check_deadline, check_name, check_urgency
from hocket.gateway.identity.tenants import OPEN_TENANT, Tenants

__all__ = [
    "DEFAULT_APP",
    "DEFAULT_STAGE",
    "HEADERS",
    "OPEN_TENANT",
    "Claim",
    "Tenants",
    "check_deadline",
    "check_name",
    "check_urgency",
]
