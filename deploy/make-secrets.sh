#!/bin/sh
# Make the files of the secrets that docker-compose.yml names, once: what is there stays as it is.
#
# The folder is its owner's alone. The files in it can be read by all: compose mounts each by itself with the owner and mode
# that it has here, and the users in the containers are others than its owner.
set -eu
folder=${1:-$(dirname "$0")/../secrets}
umask 077
mkdir -p "$folder"
chmod 0700 "$folder"
for name in database_password broker_password page_token_key flower_password; do
    if [ -s "$folder/$name" ]; then
        echo "kept $name"
    else
        od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/.$name.new"
        chmod 0444 "$folder/.$name.new"
        mv "$folder/.$name.new" "$folder/$name"
        echo "made $name"
    fi
done
