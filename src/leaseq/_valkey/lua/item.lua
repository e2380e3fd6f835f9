-- An item as it is kept: a small header and the body, in one field of the queue's hash.
--
-- The header is an array that ends with its last unusual value, so that a fresh item's is the
-- fifteen bytes of its state, its place in line, and since when it has it. An item that is leased
-- has its token where one that waits has its rank. The body is opaque, or a packed letter.
--
-- Of what falls due at one time, leases come first, in the order of their tokens, then those that
-- wait, in the order in which they were put: by their `order`, a number that an item is given with
-- its first timer and keeps while it waits. One that is delayed has it in place of its rank, one
-- that is ready and has a time to live in place of its due time.

local READY, DELAYED, LEASED = 0, 1, 2
local UPDATE, BUFFERED = 1, 2
local NORMAL = 3 -- priority
local USUAL = { nil, nil, nil, NORMAL, 0, "", "", 0, 0, 0, 0, 0, "", 0, 0 }

local function pack_item(item)
  local header = {
    item.state, item.state == DELAYED and item.order or item.rank, item.since, item.priority,
    item.deliveries, item.tenant, item.process, item.cancellations, item.expiries,
    item.expires == NEVER and 0 or item.expires, item.state == READY and item.order or item.due,
    item.rest, item.consumer, item.after, item.letter,
  }
  local last = 15
  while header[last] == USUAL[last] do
    header[last] = nil
    last = last - 1
  end
  return pack(header) .. item.body
end

-- What follows a packed value: its end is given as -1 where nothing does.
local function rest_of(raw, at)
  return at < 0 and "" or sub(raw, at + 1)
end

local function unpack_item(raw)
  local at, h = unpack_one(raw)
  local state, expires = h[1], h[10]
  local waits = state ~= LEASED
  return {
    state = state,
    rank = state == DELAYED and 0 or h[2], -- in line, or the token
    order = waits and (state == DELAYED and h[2] or h[11]) or 0, -- among what falls due
    since = h[3], -- ready or leased
    priority = h[4] or NORMAL,
    deliveries = h[5] or 0,
    tenant = h[6] or "",
    process = h[7] or "", -- which holds the lease
    cancellations = h[8] or 0,
    expiries = h[9] or 0, -- leases on it that ran out
    expires = (not expires or expires == 0) and NEVER or expires, -- when its time to live is over
    due = state == DELAYED and h[11] or 0,
    rest = h[12] or 0, -- no put may make it due earlier: it rests after a failure
    consumer = h[13] or "",
    after = h[14] or 0,
    letter = h[15] or 0, -- 1: the body is a packed letter
    body = rest_of(raw, at),
  }
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

local OLD = 4503599627370496 -- 2^52, which no token reaches before the next century
local BIAS = OLD + OLD / 2 -- makes all ranks positive, and keeps them below 2^53

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
