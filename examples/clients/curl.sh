#!/bin/sh
# curl: send a notification, and read them as they come. The example `notifications` must run.
set -eu
server=${1:-http://127.0.0.1:8000}
user=${2:-ann}

curl -fsS -X POST "$server/notify/$user" -H 'Content-Type: application/json' -d '{"title": "hello from curl"}'
echo "listening for $user; Ctrl+C ends it"
exec curl -fsSN --get "$server/connection/uni_sse" \
  --data-urlencode "name=$user" \
  --data-urlencode "cf_connect={\"subs\": {\"bell:$user\": {}}}"
