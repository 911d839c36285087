# What the scripts share. Sourced, with the repository as the working directory.

say() { printf '%s\n' "$*" >&2; }
fail() { say "$(basename "$0"): $*"; exit 1; }

# The Bun that package-lock.json names. Where npm was told to run no install scripts, its own link is not there yet.
bun_path() {
  local candidate
  for candidate in node_modules/bun/bin/bun.exe node_modules/@oven/bun-linux-*/bin/bun; do
    if [[ -x $candidate ]] && "$candidate" --version >/dev/null 2>&1; then
      printf '%s\n' "$PWD/$candidate"
      return
    fi
  done
  fail "there is no Bun in node_modules: run npm install"
}

# The packages of the lock file, where node_modules is not what it says. Not "npm ci", which refuses a lock file that was
# made where a registry does not carry the optional packages of every other platform; the versions are exact in either.
need_modules() {
  local stamp=node_modules/.lock-file
  if [[ -f $stamp ]] && cmp -s package-lock.json "$stamp"; then return; fi
  command -v npm >/dev/null || fail "npm is needed, and Node 20 or newer"
  say "Installing the development packages"
  npm install --no-save --no-audit --no-fund --loglevel=error >&2
  cp package-lock.json "$stamp"
}

as_root() {
  if ((EUID == 0)); then "$@"
  elif command -v sudo >/dev/null; then sudo -n "$@"
  else return 1
  fi
}

# Installs those of the given Debian packages that are missing. Returns 1, having said so, where that cannot be done.
need_packages() {
  local missing=() package
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then return; fi
  say "Installing from Debian: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { as_root apt-get update -qq && install_packages "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    say "Could not install: ${missing[*]}"
    return 1
  fi
  rm -f "$log"
}

# No service of a package is started: policy-rc.d is Debian's way to say so.
install_packages() {
  local policy=/usr/sbin/policy-rc.d ours=0 code=0
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" && ours=1
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" || code=$?
  if ((ours)); then as_root rm -f "$policy"; fi
  return "$code"
}
