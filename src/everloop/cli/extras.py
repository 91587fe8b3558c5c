"""Which extra of the distribution brings a library. Imports none of them."""

EXTRAS = {
    **dict.fromkeys(
        ("polars", "deltalake", "pyarrow", "sklearn", "scipy", "onnx", "skl2onnx", "optuna", "sqlalchemy", "alembic"),
        "core",
    ),
    **dict.fromkeys(("psutil", "matplotlib"), "core"),
    **dict.fromkeys(("lightgbm", "xgboost"), "boost"),
    "opentelemetry": "trace",
}
"""What a machine that only serves does not have, and which extra brings it."""
