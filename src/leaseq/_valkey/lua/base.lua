-- The frame of a call: its arguments, the time, and its queues.
--
-- A script is these files put one after the other, in the order in which scripts.py names them; so
-- what a file defines is there for all that follow. Nothing is global. A server that keeps it as a
-- function defines all this once, and does only the last part, in reply.lua, at each call. So what
-- is a call's own is declared without a value, and set there. The arguments are read by
-- one cursor, `take`, from the front to the back. An operation that took one too few or too many
-- would spoil all operations after it, so each takes all of its own before it looks at anything.
-- The fields of each are in the table of operations.py, and a test compares it with this text: so
-- arguments are read by `take` and its kin alone, several of something by a loop up to
-- `take_number()`, and a function that reads some is called `take_...` and has no arguments. Only
-- those that are done several at a time are read by their places.
--
-- All times are whole microseconds of the server's clock, in doubles, which are exact below 2^53.
-- `now` is what the rules go by, and `wall` what is reported; only tests set the two apart. "Never"
-- is math.huge.
--
-- A queue is loaded when an operation first names it and stored once at the end of the call, if
-- anything has changed. Its counters are fields of the table, as they are attributes of a ledger;
-- its other parts are the names of keys. A queue that is gone is false, and so is one whose state is
-- something else.

local call = redis.call
local pack, unpack_one = cmsgpack.pack, cmsgpack.unpack_one
local sub, byte, format = string.sub, string.byte, string.format
local floor, min, max = math.floor, math.min, math.max
local NEVER = math.huge
local LOT = 1000 -- items in one command: what can be unpacked is limited

-- Of the call
local KEYS, ARGV
local wall, now
local process
local cursor -- the last argument that was taken
local events
local queues -- by their index in this call
local seeded -- whether the draws of this call have their seed

-- Begin a call; nothing is left of the one before. False: the time may not be asked for. That is the
-- first command of all, and not every server says which command it refuses.
local function begin(keys, arguments)
  KEYS, ARGV = keys, arguments
  events, queues, seeded = {}, {}, false
  local clock = redis.pcall("TIME")
  if clock.err then
    return false
  end
  wall = clock[1] * 1000000 + clock[2]
  now = wall + ARGV[1]
  process = ARGV[3]
  cursor = 5 + ARGV[5]
  return true
end

local function take()
  cursor = cursor + 1
  return ARGV[cursor]
end

local function take_number()
  cursor = cursor + 1
  return tonumber(ARGV[cursor])
end

-- A time or a span on the wire: -1 is never.
local function take_span()
  cursor = cursor + 1
  local span = tonumber(ARGV[cursor])
  return span < 0 and NEVER or span
end

-- A whole number as text: tostring() would round it to 14 digits.
local function digits(number)
  return format("%d", number)
end

-- A queue from the names of its parts, which follow `at` in KEYS, and from its state, in the order
-- in which `store_queue` packs it.
local function new_queue(
  index, at, name, max_size, max_deliveries, base, factor, ceiling, history_size, dedupe_for,
  fair, virtual, shares, seq, front, token, stamp,
  n_ready, n_delayed, n_leased, n_buffered, handed_out, undone,
  acked, released, expired, cancelled, dead, dropped, superseded, outlived
)
  return {
    index = index, letters_index = tonumber(ARGV[5 + index]),
    state = KEYS[at + 1], items = KEYS[at + 2], ready = KEYS[at + 3], leased = KEYS[at + 4],
    timers = KEYS[at + 5], parked = KEYS[at + 6], accounts = KEYS[at + 7],
    eligible = KEYS[at + 8], early = KEYS[at + 9], idle = KEYS[at + 10], done = KEYS[at + 11],
    history = KEYS[at + 12],
    name = name, max_size = max_size, max_deliveries = max_deliveries,
    base = base, factor = factor, ceiling = ceiling, -- base -1: no backoff
    history_size = history_size, dedupe_for = dedupe_for,
    fair = fair == 1, virtual = virtual, shares = shares,
    seq = seq, front = front, token = token, stamp = stamp,
    n_ready = n_ready, n_delayed = n_delayed, n_leased = n_leased, n_buffered = n_buffered,
    handed_out = handed_out, undone = undone, acked = acked, released = released,
    expired = expired, cancelled = cancelled, dead = dead, dropped = dropped,
    superseded = superseded, outlived = outlived,
    changed = false,
    had_waiting = n_ready + n_delayed, -- at the end of the last operation
    had_items = n_ready + n_delayed + n_leased,
    came = false, -- what became ready in this operation: a key, its tenant, a key, its tenant...
    freed = false, -- tenants of leases that ended in this operation
    n_parked = false, -- how many wait here, once it was asked
    cached = false, -- tenants' accounts, if there are any
  }
end

local function store_queue(q)
  call("SET", q.state, pack(
    q.name, q.max_size, q.max_deliveries, q.base, q.factor, q.ceiling, q.history_size, q.dedupe_for,
    q.fair and 1 or 0, q.virtual, q.shares, q.seq, q.front, q.token, q.stamp,
    q.n_ready, q.n_delayed, q.n_leased, q.n_buffered, q.handed_out, q.undone,
    q.acked, q.released, q.expired, q.cancelled, q.dead, q.dropped, q.superseded, q.outlived
  ))
end

local function queue_at(index)
  local q = queues[index]
  if q == nil then
    local at = 2 + (index - 1) * 12
    local raw = redis.pcall("GET", KEYS[at + 1])
    if type(raw) == "table" and not raw.err:find("WRONGTYPE", 1, true) then
      error(raw) -- one that may not be read is not gone
    end
    q = type(raw) == "string" and new_queue(index, at, cmsgpack.unpack(raw))
    queues[index] = q
  end
  return q
end

local function take_queue()
  return queue_at(take_number())
end

local function total(q)
  return q.n_ready + q.n_delayed + q.n_leased + q.n_buffered
end

-- The number of parks at a queue.
local function n_parked(q)
  if not q.n_parked then
    q.n_parked = call("ZCARD", q.parked)
  end
  return q.n_parked
end

local GONE, OK = { "gone" }, { "ok" }

-- A part of the rules is made when one of its functions is first called: to define a function takes
-- as long as a simple command, and most calls do without most parts.
local LAZY = {
  __index = function(part, name)
    for each, defined in pairs(part[1]()) do
      part[each] = defined
    end
    return rawget(part, name)
  end,
}

local function lazily(define)
  return setmetatable({ define }, LAZY)
end
