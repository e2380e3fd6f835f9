-- An item as it is kept: a header and the body, in one field of the queue's hash.
--
-- The header has 26 bytes, all numbers with the highest byte first:
--
--     1         the state, and 4 if there is more
--     2 .. 8    its place: of one that is ready the rank, plus BIAS; of a leased one the token; of one
--               that is delayed the order
--     9 .. 15   since when it has its state; of one that is delayed, when it is due
--     16 .. 19  the priority, with its sign
--     20 .. 23  the deliveries
--     24 .. 25  the length of the tenant's name
--     26        the length of the name of the process that holds it
--
-- Then come the two names, and if there is more, a packed array, which ends with its last unusual
-- value; and the body, which is opaque, or a packed letter. So most items that are put, leased or
-- done change by the first 26 bytes and the process alone, and need not be taken apart.
--
-- Of what falls due at one time, leases come first, in the order of their tokens, then those that
-- wait, in the order in which they were put: by their `order`, a number that an item is given with
-- its first timer and keeps while it waits.

local READY, DELAYED, LEASED = 0, 1, 2
local MORE = 4
local UPDATE, BUFFERED = 1, 2
local NORMAL = 3 -- priority
local HEADER, HEADER_SIZE = ">BI7I7i4I4I2B", 26
local USUAL = { 0, 0, 0, 0, 0, "", 0, 0 }

local OLD = 4503599627370496 -- 2^52, which no token reaches before the next century
local BIAS = OLD + OLD / 2 -- makes all ranks positive, and keeps them below 2^53

local function pack_item(item)
  local state, place, since = item.state, item.rank, item.since
  if state == READY then
    place = place + BIAS
  elseif state == DELAYED then
    place, since = item.order, item.due
  end
  local more = {
    item.cancellations, item.expiries, item.expires == NEVER and 0 or item.expires,
    state == READY and item.order or 0, item.rest, item.consumer, item.after, item.letter,
  }
  local last = 8
  while last > 0 and more[last] == USUAL[last] do
    more[last] = nil
    last = last - 1
  end
  local header = struct.pack(
    HEADER, last > 0 and state + MORE or state, place, since, item.priority, item.deliveries,
    #item.tenant, #item.process
  )
  return header .. item.tenant .. item.process .. (last > 0 and pack(more) or "") .. item.body
end

-- The header but for the state, the place and the time, with the names.
local function pack_tail(priority, deliveries, tenant, whom)
  return struct.pack(">i4I4I2B", priority, deliveries, #tenant, #whom) .. tenant .. whom
end

local FRESH = pack_tail(NORMAL, 0, "", "")

-- What follows a packed value: its end is given as -1 where nothing does.
local function rest_of(raw, at)
  return at < 0 and "" or sub(raw, at + 1)
end

local function unpack_item(raw)
  local flags, place, since, priority, deliveries, n_tenant, n_process = struct.unpack(HEADER, raw)
  local state = flags % MORE
  local ready, delayed = state == READY, state == DELAYED
  local names, body_at = HEADER_SIZE + n_tenant, HEADER_SIZE + n_tenant + n_process
  local body, more
  if flags >= MORE then
    local at
    at, more = unpack_one(raw, body_at)
    body = rest_of(raw, at)
  else
    body, more = sub(raw, body_at + 1), USUAL
  end
  local expires = more[3] or 0
  return {
    state = state,
    rank = ready and place - BIAS or delayed and 0 or place, -- in line, or the token
    order = ready and more[4] or delayed and place or 0, -- among what falls due
    since = delayed and 0 or since, -- ready or leased
    priority = priority,
    deliveries = deliveries,
    tenant = n_tenant > 0 and sub(raw, HEADER_SIZE + 1, names) or "",
    process = n_process > 0 and sub(raw, names + 1, body_at) or "", -- which holds the lease
    cancellations = more[1] or 0,
    expiries = more[2] or 0, -- leases on it that ran out
    expires = expires == 0 and NEVER or expires, -- when its time to live is over
    due = delayed and since or 0,
    rest = more[5] or 0, -- no put may make it due earlier: it rests after a failure
    consumer = more[6] or "",
    after = more[7] or 0,
    letter = more[8] or 0, -- 1: the body is a packed letter
    body = body,
  }
end

-- The tenant of a packed item.
local function tenant_in(raw)
  local length = struct.unpack(">I2", raw, 24)
  return sub(raw, HEADER_SIZE + 1, HEADER_SIZE + length)
end

local function new_item(body, tenant, priority, expires)
  return {
    priority = priority, deliveries = 0, tenant = tenant, process = "", cancellations = 0,
    expiries = 0, expires = expires, order = 0, due = 0, rest = 0, consumer = "", after = 0, letter = 0,
    body = body,
  }
end

local function read_item(q, key)
  local raw = call("HGET", q.items, key)
  return raw and unpack_item(raw)
end

local function write_item(q, key, item)
  call("HSET", q.items, key, pack_item(item))
end

-- A body as it goes out: a letter is an array, and so is the letter that may be in it.
local function read_body(body, letter)
  if letter ~= 1 then
    return body
  end
  local record = cmsgpack.unpack(body)
  record[3] = read_body(record[3], record[4])
  return record
end

-- A queue counts the letters in it, by the queue that they are of, in the field "-" .. its name. A
-- letter is there, or not any more.
local function count_letter(q, item, by)
  if item.letter == 1 then
    call("HINCRBY", q.items, "-" .. cmsgpack.unpack(item.body)[1], by)
  end
end

-- A lease as a claim gives it.
local function lease_of(key, item)
  return {
    key, read_body(item.body, item.letter), digits(item.rank), item.priority, item.tenant,
    item.deliveries, item.cancellations, item.letter,
  }
end

-- The ready items of a queue are one sorted set, all of one score, so that it is in the order of its
-- members: tenant, then priority, the highest first, then rank, then the key. All lines of all
-- tenants and priorities are so in one set; the first member is the head of a queue without
-- tenants, and the first with a tenant's prefix the head of that tenant's lines.
--
-- Three places are in one rank. Those at the *back* are counted up from 1. Those at their *old
-- place* come before all of these, in the order of their hand-outs: their rank is the last lease's
-- token less 2^52. Those at the *front* come before these: they are counted down from -2^52.

local function prefix_of(tenant)
  if tenant == "" then
    return "\0"
  end
  return struct.pack(">BI2", 1, #tenant - 1) .. sub(tenant, 2)
end

local function member_of(key, item)
  local place = struct.pack(">I4I7", 2147483647 - item.priority, item.rank + BIAS)
  return prefix_of(item.tenant) .. place .. key
end

-- Where the place begins in a member of the line, less one.
local function place_at(member)
  return byte(member) == 0 and 1 or 3 + byte(member, 2) * 256 + byte(member, 3)
end

local function key_of(member)
  return sub(member, place_at(member) + 12)
end

-- The priority and the rank of a member.
local function read_place(member)
  local order, rank = struct.unpack(">I4I7", member, place_at(member) + 1)
  return 2147483647 - order, rank - BIAS
end
