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
-- All times are whole microseconds in doubles, which are exact below 2^53. `wall` is the server's
-- clock, and what is reported. `steady` is that clock without its steps back: the last time that was
-- seen is kept with the data, once a second, and by how much the clock has been put back since: so
-- after a step back it may be up to a second behind what it was. `now` is what the
-- rules go by; only tests set it apart from `steady`. "Never" is math.huge.
--
-- While a script runs, the server does nothing else. So a call has so much work to do and no more,
-- counted in units of some 5 microseconds: `late()` says that it is done. Then what can be cut short
-- is, and the operations that are left are answered with "later": the process asks for them again.
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
local MOST_WORK = 2000 -- units, for one call, but for what cannot be done in parts
local BYTES = 2048 -- of bodies that are read, written or answered for one unit of work

-- Of the call
local KEYS, ARGV
local wall, steady, now
local full -- what the server says to what needs memory, if it has none; false: it has some
local process
local cursor -- the last argument that was taken
local events
local queues -- by their index in this call
local touched -- those that the operation under way has looked at
local seeded -- whether the draws of this call have their seed
local work
local record -- what is kept of the last call of the process; false: nothing
local broker -- what is kept of all: true, the last time, by how much it was put back, the format...

local adds = false -- true: this script has operations that a full server refuses

-- The refusal of a full server; false: it has room. It refuses a function as a whole, and the first
-- write of a script that may need memory, but none that comes after a write. What ends or frees
-- something is done all the same: so a write comes first, and operations that add ask for `full`.
local function ask_for_room()
  local asked = redis.pcall("ZADD", KEYS[8], "XX", 0, "")
  if type(asked) ~= "table" or not asked.err:find("^%-?OOM") then
    return false
  end
  call("HDEL", KEYS[1], "")
  return asked.err
end

-- What these bytes say of the broker; as if there were none, if they cannot be read.
local function broker_in(raw)
  local read = { pcall(cmsgpack.unpack, raw or "") }
  for n = 2, 5 do
    if type(read[n]) ~= "number" or not (math.abs(read[n]) < 4503599627370496) then
      return { true, 0, 0, FORMAT, OLDEST }
    end
  end
  return read
end

-- Begin a call; nothing is left of the one before. Returns the error that it is refused with, and the
-- one that is nothing to a query. The time is asked for by the first command of all, and not every
-- server says which command it refuses.
local function begin(keys, arguments, is_script)
  KEYS, ARGV = keys, arguments
  events, queues, touched, seeded, work = {}, {}, {}, false, 0
  local clock = redis.pcall("TIME")
  if clock.err then
    return "NOPERM no permissions to run the 'time' command"
  end
  wall = clock[1] * 1000000 + clock[2]
  process = ARGV[3]
  cursor = 5 + ARGV[5]
  local kept = redis.pcall("HMGET", KEYS[1], process, "@")
  record, broker = kept[1], broker_in(kept[2])
  if wall < broker[2] then
    broker[3] = broker[3] + broker[2] - wall
  end
  steady = wall + broker[3]
  now = steady + ARGV[1]
  if broker[5] > FORMAT then
    return "NEWER its queues are kept in format " .. broker[4] .. ", and this is format " .. FORMAT
  end
  full = is_script and adds and KEYS[8] and ask_for_room()
  if kept.err and kept.err:find("WRONGTYPE", 1, true) then
    return nil, "CORRUPT " .. KEYS[1] .. " is of another type, so delete that key: " .. kept.err
  end
  return nil, kept.err
end

local function spend_on(body)
  work = work + 1 + #body / BYTES
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
  acked, released, expired, given_back, dead, dropped, superseded, outlived, largest,
  paused, reason, n_paused, cancelled, remembered, ...
)
  return {
    index = index, letters_index = tonumber(ARGV[5 + index]),
    state = KEYS[at + 1], items = KEYS[at + 2], ready = KEYS[at + 3], leased = KEYS[at + 4],
    timers = KEYS[at + 5], parked = KEYS[at + 6], accounts = KEYS[at + 7],
    eligible = KEYS[at + 8], early = KEYS[at + 9], idle = KEYS[at + 10], done = KEYS[at + 11],
    history = KEYS[at + 12], kept = KEYS[at + 13],
    name = name, max_size = max_size, max_deliveries = max_deliveries,
    base = base, factor = factor, ceiling = ceiling, -- base -1: no backoff
    history_size = history_size, dedupe_for = dedupe_for,
    fair = fair == 1, virtual = virtual, shares = shares,
    seq = seq, front = front, token = token, stamp = stamp,
    n_ready = n_ready, n_delayed = n_delayed, n_leased = n_leased, n_buffered = n_buffered,
    handed_out = handed_out, undone = undone, acked = acked, released = released,
    expired = expired, given_back = given_back, dead = dead, dropped = dropped,
    superseded = superseded, outlived = outlived,
    largest = largest or NEVER, -- no item has more bytes
    paused = paused or 0, -- since when the whole queue is, by the wall clock; 0: it is not
    reason = reason or "", -- of that pause
    n_paused = n_paused or 0, -- the number of tenants that are paused by themselves
    cancelled = cancelled or 0,
    remembered = remembered or acked, -- the number of items that have ever come into the history
    further = select("#", ...) > 0 and pack(...) or "", -- fields of newer formats
    changed = false,
    touched = false,
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
    max(0, q.n_ready), max(0, q.n_delayed), max(0, q.n_leased), max(0, q.n_buffered),
    q.handed_out, q.undone,
    q.acked, q.released, q.expired, q.given_back, q.dead, q.dropped, q.superseded, q.outlived,
    q.largest,
    q.paused, q.reason, q.n_paused, q.cancelled, q.remembered
  ) .. q.further)
end

local function read_queue(index, at, raw)
  local q = new_queue(index, at, cmsgpack.unpack(raw))
  assert(type(q.name) == "string" and type(q.reason) == "string")
  q.n_ready, q.n_delayed = max(0, q.n_ready), max(0, q.n_delayed)
  q.n_leased, q.n_buffered = max(0, q.n_leased), max(0, q.n_buffered)
  q.paused, q.n_paused = max(0, q.paused), max(0, q.n_paused)
  return q
end

local function queue_at(index)
  local q = queues[index]
  if q == nil then
    local at = 2 + (index - 1) * 13
    local raw = redis.pcall("GET", KEYS[at + 1])
    if type(raw) == "table" and not raw.err:find("WRONGTYPE", 1, true) then
      error(raw) -- one that may not be read is not gone
    end
    local sound, state = true, false
    if type(raw) == "string" then
      sound, state = pcall(read_queue, index, at, raw)
    end
    if not sound then
      error({ err = "CORRUPT the state of a queue cannot be read: " .. KEYS[at + 1] })
    end
    q = state
    queues[index] = q
  end
  if q and not q.touched then
    q.touched = true
    touched[#touched + 1] = q
  end
  return q
end
