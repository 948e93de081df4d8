#!/usr/bin/env bash
# Who may do what with the topics: prints the kafka-acls.sh commands, or runs them. The names of the topics are those of
# engine/edges/topics.py; a test holds the two together.
#
#   deploy/kafka/acls.sh                        prints the commands
#   deploy/kafka/acls.sh --apply                runs them; again does no harm
#
# Told by the environment:
#
#   KAFKA_BOOTSTRAP_SERVERS  127.0.0.1:9092
#   COMMAND_CONFIG           client.properties of an administrator; none where the listener asks for nothing
#   CLUSTER                  service.cluster (dev). Rights to transactional ids go by their beginning, liq-CLUSTER-, so
#                            "eu" and "eu-2" on one Kafka would share them: "eu1" and "eu2" do not
#   TOPIC_PREFIX             kafka.topic_prefix (empty)
#   ENGINE MARKET_DATA LEDGER OPERATOR READER AUDITOR
#                            the principal of each role (User:liq-engine, User:liq-market-data, ...); a role whose
#                            principal is set to nothing gets no rights
#
# What the broker needs, in server.properties. Without the last two lines any client may still do anything:
#
#   authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
#   allow.everyone.if.no.acl.found=false
#   super.users=User:admin                       (administrators, and the brokers themselves)
#
# Clients that show who they are by password (SCRAM: the broker keeps a salted hash), in service.toml:
#
#   security_protocol = "SASL_SSL"               ca_file = "ca.pem"
#   sasl_mechanism = "SCRAM-SHA-512"             sasl_username = "liq-engine"
#   sasl_password_file = "password"              (mode 600, one line; or LIQ_SASL_PASSWORD)
#
# on the broker: listeners=SASL_SSL://:9092, sasl.enabled.mechanisms=SCRAM-SHA-512, ssl.keystore.* with its own
# certificate, and listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=
#   org.apache.kafka.common.security.scram.ScramLoginModule required;
# without which it does not start (brokers talk to each other on a listener of their own). Once per user, the password
# from a file, since arguments can be read by every user of the machine:
#
#   user.properties, mode 600, deleted afterwards:   SCRAM-SHA-512=password=...
#   kafka-configs.sh --bootstrap-server ... --command-config ... --alter --entity-type users --entity-name liq-engine \
#     --add-config-file user.properties
#
# Clients that show who they are by certificate (mutual TLS), in service.toml:
#
#   security_protocol = "SSL"                    ca_file = "ca.pem"
#   certificate_file = "engine.pem"              key_file = "engine.key"
#   key_password_file = "key-password"           (if the key has one; or LIQ_KEY_PASSWORD)
#
# on the broker: listeners=SSL://:9093, ssl.client.auth=required, ssl.truststore.* with the authority that issues the
# certificates. The principal is then the whole subject, so ENGINE='User:CN=liq-engine,O=...', unless the broker maps it:
# ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/,DEFAULT
set -euo pipefail

bootstrap=${KAFKA_BOOTSTRAP_SERVERS:-127.0.0.1:9092}
cluster=${CLUSTER:-dev}
prefix=${TOPIC_PREFIX:-}
engine=${ENGINE-User:liq-engine}
market_data=${MARKET_DATA-User:liq-market-data}
ledger=${LEDGER-User:liq-ledger}
operator=${OPERATOR-User:liq-operator}
reader=${READER-User:liq-reader}
auditor=${AUDITOR-User:liq-auditor}

inputs=(mark-prices control fills transfers)
outputs=(liquidation-orders bad-debt margin-events dead-letters)
state=(journal snapshots)

apply=false
case "$#:${1:-}" in
0:) ;;
1:--apply) apply=true ;;
*)
    echo "usage: acls.sh [--apply]" >&2
    exit 2
    ;;
esac

# allow PRINCIPAL "OPERATION..." RESOURCE...: prints or runs one command.
allow() {
    local principal=$1 operation
    local command=(kafka-acls.sh --bootstrap-server "$bootstrap")
    if [ -z "$principal" ]; then
        return
    fi
    if [ -n "${COMMAND_CONFIG:-}" ]; then
        command+=(--command-config "$COMMAND_CONFIG")
    fi
    command+=(--add --allow-principal "$principal")
    for operation in $2; do
        command+=(--operation "$operation")
    done
    command+=("${@:3}")
    if "$apply"; then
        "${command[@]}"
    else
        printf '%q ' "${command[@]}"
        echo
    fi
}

# topics NAME...: leaves the arguments that name these topics in `named`.
topics() {
    local name
    named=()
    for name in "$@"; do
        named+=(--topic "$prefix$name")
    done
}

# A shard: reads its inputs and what it wrote itself, writes outputs, journal and snapshots under its own transactional
# id, commits offsets under its own group, and compares the topics' settings with what they must be. It creates and
# deletes nothing, and writes no input: not even a broken shard can make up a fill.
topics "${inputs[@]}"
allow "$engine" "Read DescribeConfigs" "${named[@]}"
topics "${outputs[@]}"
allow "$engine" "Write DescribeConfigs" "${named[@]}"
topics "${state[@]}"
allow "$engine" "Read Write DescribeConfigs" "${named[@]}"
allow "$engine" "Write" --resource-pattern-type prefixed --transactional-id "liq-$cluster-"
allow "$engine" "Read" --resource-pattern-type prefixed --group "liq-$cluster-"

# Who publishes prices can move every account, but cannot book a trade.
topics mark-prices
allow "$market_data" "Write" "${named[@]}"

# The exchange's ledger: what was traded and transferred.
topics fills transfers
allow "$ledger" "Write" "${named[@]}"

# People who pause and set parameters.
topics control
allow "$operator" "Write" "${named[@]}"

# The matching engine, which carries out the orders, and whoever acts on the events.
topics "${outputs[@]}"
allow "$reader" "Read" "${named[@]}"
allow "$reader" "Read" --resource-pattern-type prefixed --group "read-liq-$cluster-"

# Reads all there is, to fold it again and compare. Writes nothing.
topics "${inputs[@]}" "${outputs[@]}" "${state[@]}"
allow "$auditor" "Read DescribeConfigs" "${named[@]}"
allow "$auditor" "Read" --resource-pattern-type prefixed --group "audit-liq-$cluster-"
