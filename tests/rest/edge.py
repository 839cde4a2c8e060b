"""Paths of accounts and of what is known of the server, for tests/rest/test_paths.py."""

INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, UNAUTHENTICATED = 3, 5, 9, 16

USER = {"name": "ann", "password": "a long enough secret", "roles": ["viewer"]}

# Method, path, JSON body, fields that the answer must have. In this order: the later ones use what the earlier made.
SUCCESSES: list[tuple[str, str, object, set[str]]] = [
    ("GET", "/cache/stats", None, {"hits", "misses", "kinds", "entries", "redis", "uptime_seconds"}),
    ("GET", "/api/v1/cache/stats", None, {"hits", "misses", "kinds"}),
    ("DELETE", "/api/v1/cache?kind=search", None, {"kinds", "everywhere"}),
    ("DELETE", "/api/v1/cache", None, {"kinds", "everywhere"}),
    ("POST", "/v1/cache:warm", {"limit": 10}, {"searches", "users", "already_cached"}),
    ("GET", "/performance", None, {"window_seconds", "grade", "operations", "advice"}),
    ("GET", "/performance/slow-queries?limit=5", None, {"slow_queries", "threshold_ms"}),
    ("POST", "/v1/accounts", USER, {"user"}),
    ("GET", "/v1/accounts", None, {"users"}),
    ("PATCH", "/v1/accounts/ann", {"update_mask": "roles", "roles": ["analyst"]}, {"user"}),
    ("POST", "/auth/token", {"username": "ann", "password": USER["password"]}, {"access_token", "refresh_token"}),
    ("POST", "/v1/apiKeys", {"name": "tracker", "roles": ["ingester"]}, {"api_key", "key"}),
    ("GET", "/v1/apiKeys", None, {"api_keys"}),
    ("GET", "/api/v1/auth/me", None, {"kind", "tenant", "roles"}),
    ("GET", "/.well-known/jwks.json", None, {"keys"}),
    ("POST", "/api/v1/auth/logout", {}, set()),
]

# Method, path, JSON body, HTTP status, gRPC code, reason.
FAILURES: list[tuple[str, str, object, int, int, str]] = [
    ("GET", "/cache/stats?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/api/v1/cache/stats?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("DELETE", "/api/v1/cache?kind=none_such", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/v1/cache:warm", {"limit": 5000}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/performance?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/performance/slow-queries?limit=5000", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/auth/token", {"username": "nobody", "password": "guess"}, 401, UNAUTHENTICATED, "WRONG_CREDENTIALS"),
    ("POST", "/auth/refresh", {"refresh_token": "rt_no"}, 401, UNAUTHENTICATED, "REFRESH_TOKEN_INVALID"),
    ("GET", "/api/v1/auth/login", None, 400, FAILED_PRECONDITION, "OIDC_NOT_CONFIGURED"),
    ("GET", "/api/v1/auth/login?return_to=https://evil.example", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/api/v1/auth/callback?code=x&state=y", None, 400, FAILED_PRECONDITION, "OIDC_NOT_CONFIGURED"),
    ("GET", "/api/v1/auth/me?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("POST", "/api/v1/auth/logout?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/.well-known/jwks.json?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("GET", "/v1/apiKeys?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("POST", "/v1/apiKeys", {"name": "k", "roles": ["king"]}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("DELETE", "/v1/apiKeys/none", None, 404, NOT_FOUND, "API_KEY_NOT_FOUND"),
    ("GET", "/v1/accounts?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("POST", "/v1/accounts", {**USER, "password": "short"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("PATCH", "/v1/accounts/nobody", {"update_mask": "disabled", "disabled": True}, 404, NOT_FOUND, "USER_NOT_FOUND"),
]
