"""The REST paths of catalogue, search, recommendations and feedback, each in success and in failure."""

NAMES = {"lamp-1": "Desk lamp", "lamp-2": "Floor lamp", "hat-1": "Winter hat", "gone-1": "Old hat"}
PRODUCTS = [
    {"product_id": product_id, "name": name, "price": 10 + place, "category_path": ["Shop", name.split()[-1]]}
    for place, (product_id, name) in enumerate(NAMES.items())
]
LINES = b'{"id": "upload-1", "title": "Scarf", "price": "9.5"}\n{"id": "upload-2", "title": "Glove"}\n'
CLICK = {"user_id": "u1", "product_id": "lamp-1", "interaction_type": "CLICK", "context": "feed", "request_id": "r1"}
VARIANTS = [{"name": "control", "weight": 1}, {"name": "fresh", "weight": 1, "overrides": {"session": 0.9}}]
VECTOR = {"values": [1.0] + [0.0] * 383}
INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE = 3, 5, 6, 9, 11
COUNTS = {"created", "updated", "unchanged", "commit"}

# In this order: what a path needs, one before it made. Method, path, JSON body, fields that the answer must have.
SUCCESSES: list[tuple[str, str, object, set[str]]] = [
    ("POST", "/v1/products:upsert", {"products": PRODUCTS}, COUNTS),
    ("POST", "/v1/products:upload", LINES, {*COUNTS, "rejected", "errors"}),
    ("GET", "/v1/products/lamp-1", None, {"product", "commit"}),
    ("DELETE", "/v1/products/gone-1", None, {"commit"}),
    ("GET", "/v1/products?category=Shop/lamp&page_size=1", None, {"products", "next_page_token", "total", "version"}),
    ("GET", "/v1/index", None, {"index"}),
    ("POST", "/v1/index:rebuild", {"request_id": "rebuild"}, {"name", "done"}),
    ("POST", "/api/v1/search", {"query": "lamp", "limit": 2, "facets": ["category"]}, {"results", "total", "took_ms"}),
    ("POST", "/api/v1/search", {"filters": {"max_price": 11}}, {"results", "facets", "plan", "cached", "reason"}),
    ("POST", "/api/v1/search", {"query": "lamp", "mode": "lexical", "sort": "price_ascending"}, {"results", "total"}),
    ("POST", "/v1/search:vector", {"vectors": [VECTOR], "limit": 3}, {"neighbours", "plan", "index_version"}),
    ("POST", "/v1/search:batch", {"requests": [{"query": "hat"}, {"query": "x", "facets": ["?"]}]}, {"responses"}),
    ("GET", "/v1/products/lamp-1:similar?limit=2&filters.in_stock=true", None, {"results", "plan"}),
    ("POST", "/v1/search:similar", {"product_id": "lamp-1"}, {"results", "plan"}),
    ("POST", "/api/v1/feedback", CLICK, {"status", "request_id", "commit", "stored_ms", "session_ms"}),
    ("POST", "/v1/feedback:batch", {"interactions": [CLICK]}, {"stored", "duplicates", "commit"}),
    ("GET", "/v1/users/u1/profile?limit=5", None, {"session", "long_term", "last_interactions", "interactions"}),
    ("POST", "/v1/experiments", {"name": "fresh-feed", "variants": VARIANTS}, {"experiment"}),
    ("GET", "/v1/experiments", None, {"experiments"}),
    ("POST", "/api/v1/recommend", {"user_id": "u1", "context": "FEED"}, {"items", "weights", "experiments", "cached"}),
    ("POST", "/api/v1/recommend", {"user_id": "u1", "context": "search", "query": "hat"}, {"items", "weights"}),
    ("POST", "/api/v1/recommend", {"user_id": "u1", "context": "similar", "product_id": "hat-1"}, {"items", "weights"}),
    ("POST", "/api/v1/recommend", {"user_id": "u1", "context": "CATEGORY", "category": "Shop/lamp"}, {"items"}),
    ("POST", "/v1/recommend:batch", {"requests": [{"user_id": "u1"}, {"user_id": "new"}]}, {"responses"}),
    ("GET", "/v1/recommend/model", None, {"model"}),
    ("POST", "/v1/recommend/model:train", {"request_id": "train"}, {"name", "done"}),
    ("DELETE", "/v1/experiments/fresh-feed", None, set()),
    ("DELETE", "/v1/users/u1", None, {"removed", "remaining", "linked_visitor_ids", "took_ms"}),
]

# Method, path, JSON body, HTTP status, gRPC code, reason.
FAILURES: list[tuple[str, str, object, int, int, str]] = [
    ("POST", "/v1/products:upsert", {"products": []}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/v1/products:upsert", {"products": [{"product_id": "x"}]}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    (
        *("POST", "/v1/products:upsert", {"products": [{"product_id": "x", "name": "x", "price": -1}]}),
        *(400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ),
    ("POST", "/v1/products:upload", b'{"id": "' + b"x" * 1_100_000, 400, INVALID_ARGUMENT, "LINE_TOO_LONG"),
    ("GET", "/v1/products/none-such", None, 404, NOT_FOUND, "PRODUCT_NOT_FOUND"),
    ("GET", "/v1/products/lamp-1?as_of_version=999999", None, 400, OUT_OF_RANGE, "VERSION_NOT_FOUND"),
    ("DELETE", "/v1/products/none-such", None, 404, NOT_FOUND, "PRODUCT_NOT_FOUND"),
    ("GET", "/v1/products?page_token=nonsense", None, 400, INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"),
    ("GET", "/v1/index?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("POST", "/v1/index:rebuild", {"request_id": "x" * 129}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/search", {"query": "x" * 10_000}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/search", {"query": "lamp", "limit": 1_000_000}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/search", {"query": "lamp", "facets": ["prize"]}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/search", {"page_token": "nonsense"}, 400, INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"),
    ("POST", "/api/v1/search", {"filters": {"min_price": 5, "max_price": 1}}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/v1/search:vector", {"vectors": [{"values": [1, 2]}]}, 400, INVALID_ARGUMENT, "INVALID_VECTOR"),
    ("POST", "/v1/search:vector", {"vectors": [{"values": [0] * 384}]}, 400, INVALID_ARGUMENT, "INVALID_VECTOR"),
    (
        *("POST", "/v1/search:vector", {"vectors": [{"values": ["NaN"] + [0] * 383}]}),
        *(400, INVALID_ARGUMENT, "INVALID_VECTOR"),
    ),
    ("POST", "/v1/search:batch", {"requests": []}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/v1/products/none-such:similar", None, 404, NOT_FOUND, "PRODUCT_NOT_FOUND"),
    ("POST", "/v1/search:similar", {"product_id": ""}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/feedback", {**CLICK, "user_id": ""}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/feedback", {**CLICK, "interaction_type": "RATING"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/feedback", {**CLICK, "rating": 4}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/v1/feedback:batch", {"interactions": []}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/v1/users/u1/profile?limit=201", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("DELETE", f"/v1/users/{'x' * 257}", None, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/v1/experiments", {"name": "x", "variants": VARIANTS[:1]}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/v1/experiments?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("DELETE", "/v1/experiments/none-such", None, 404, NOT_FOUND, "EXPERIMENT_NOT_FOUND"),
    ("POST", "/api/v1/recommend", {"context": "SEARCH"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/recommend", {"context": "FEED", "query": "x"}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/recommend", {"user_id": "u1", "limit": 1_000_000}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("POST", "/api/v1/recommend", {"context": "SIMILAR", "product_id": "none"}, 404, NOT_FOUND, "PRODUCT_NOT_FOUND"),
    ("POST", "/v1/recommend:batch", {"requests": []}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
    ("GET", "/v1/recommend/model?nope=1", None, 400, INVALID_ARGUMENT, "INVALID_REQUEST"),
    ("POST", "/v1/recommend/model:train", {"request_id": "x" * 129}, 400, INVALID_ARGUMENT, "INVALID_FIELD"),
]
