#!/bin/sh
# Runs a command with the settings that hold passwords: Penstock reads them from the environment, Compose has files.
set -eu
clickhouse_password=$(cat /run/secrets/clickhouse_password)
redis_password=$(cat /run/secrets/redis_password)
export PENSTOCK_CLICKHOUSE_URL="http://penstock:$clickhouse_password@clickhouse:8123/default"
export PENSTOCK_REDIS_URL="redis://:$redis_password@redis:6379/0"
exec "$@"
