"""The bounds of accounts, each with its unit in its name and its why beside it."""

# --- what is kept in memory ----------------------------------------
# Fixed, where queues have `Shares`: users stay, so room that was given away would not come back, and a bound that moved
# with the others' users would tell a tenant how many they are.
USERS_PER_TENANT_MAX = 5_000
USERS_MAX = 20_000  # of all tenants; all are in memory, some 1 kB each
KEYS_MAX = 50_000  # likewise
KEYS_PER_TENANT_MAX = 1_000  # one tenant shall not take what all share
KEYS_SHOWN_S = 30 * 86_400.0  # a key that was revoked or expired is kept in memory, and listed, so long
REVOKED_SESSIONS_MAX = 500_000  # of the last half hour, some 100 bytes each; passwords are not verified that fast
CREDENTIALS_KNOWN_MAX = 10_000  # that were verified lately; some 500 bytes each
CREDENTIAL_CHARS_MAX = 4_096  # a longer one is none of ours

# --- how soon servers see each other's changes ----------------------------------------
FOLLOW_S = 2.0
FOLLOW_OVERLAP_S = 600.0  # rows that turn up so late, or clocks of a cluster that are so far apart, are still seen
SIGNING_LOOK_S = 1.0  # between two looks at whether the signing keys changed on disk
USE_NOTED_S = 1.0  # so exactly is it known when a key was last used

# --- lifetimes ----------------------------------------
ACCESS_S = 1_800.0  # of an access token
REFRESH_S = 30 * 86_400.0  # of a refresh token; each use gives a new one
LEEWAY_S = 30.0  # servers' clocks may differ by so much
SIGN_IN_STATE_S = 600.0  # between going to the OpenID provider and coming back
KEY_USE_WRITTEN_S = 3_600.0  # a key's last use is written once in so long

# --- passwords ----------------------------------------
PASSWORD_CHARS_MIN = 12
PASSWORD_CHARS_MAX = 256
PASSWORD_NAME_CHARS_MIN = 4  # a shorter user name may be in a password: it would be so by chance
# The second choice of RFC 9106 with one lane: 64 MiB and 0.13 s of one core, which a server can spare now and then.
ARGON2_TIME_COST = 3
ARGON2_MEMORY_KIB = 64 * 1024
PASSWORDS_WAITING_MAX = 16  # the last waits some 2 s; past it the caller is told OVERLOADED

# --- attempts to sign in ----------------------------------------
ATTEMPTS_S = 300.0  # failures count for so long
ATTEMPTS_PER_NAME_MAX = 10
ATTEMPTS_PER_ADDRESS_MAX = 30  # more than for a name: an office comes from one address
ATTEMPTS_KNOWN_MAX = 20_000  # names and addresses; as many failures take longer than they count, see PASSWORDS_…

# --- the OpenID provider ----------------------------------------
PROVIDER_S_MAX = 10.0  # for one of its answers
PROVIDER_BYTES_MAX = 256 * 1024  # of one of its answers
PROVIDER_METADATA_S = 3_600.0  # its documents are read again after so long
PROVIDER_KEYS_AGAIN_S = 60.0  # or, when a token names a key that is not among them, after so long
STATES_USED_MAX = 10_000  # sign-ins that came back in the last minutes, each of which may do so once
SUBJECT_CHARS_MAX = 255  # OpenID Connect Core, section 2
EMAIL_CHARS_MAX = 254

# --- keys ----------------------------------------
LABEL_CHARS_MAX = 128
KEY_EXPIRES_S_MAX = 100 * 365 * 86_400.0  # from now; the database counts to the year 2299
SIGNING_FILE_BYTES_MAX = 256 * 1024
