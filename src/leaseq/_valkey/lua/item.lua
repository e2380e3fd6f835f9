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
local HEADER_SIZE = 26
local HEADER = ">BI7I7i4I4I2B"
local USUAL = { 0, 0, 0, 0, 0, "", 0, 0, 0 }

local OLD = 4503599627370496 -- 2^52, which no token reaches before the next century
local BIAS = 6755399441055744 -- half as much again: makes all ranks positive, and keeps them below 2^53

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
    item.cancelled or 0,
  }
  local last = 9
  if item.further then
    for n, field in ipairs(item.further) do
      more[9 + n] = field
    end
  else
    while last > 0 and more[last] == USUAL[last] do
      more[last] = nil
      last = last - 1
    end
  end
  spend_on(item.body)
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

-- Take an item apart; raises if it cannot be one.
local function unpack_item(raw)
  local flags, place, since, priority, deliveries, n_tenant, n_process = struct.unpack(HEADER, raw)
  local state = flags % MORE
  local ready, delayed = state == READY, state == DELAYED
  local names, body_at = HEADER_SIZE + n_tenant, HEADER_SIZE + n_tenant + n_process
  assert(state <= LEASED and body_at <= #raw)
  local body, more
  if flags >= MORE then
    local at
    at, more = unpack_one(raw, body_at)
    assert(type(more) == "table")
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
    cancelled = type(more[9]) == "string" and more[9], -- the reason, of a leased one; false: it was not
    further = more[10] ~= nil and { unpack(more, 10) } or nil, -- fields of newer formats
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

-- The item that these bytes are; nil: they are not one, or there are none.
local function item_in(raw)
  if raw then
    spend_on(raw)
    local sound, item = pcall(unpack_item, raw)
    return sound and item or nil
  end
end

-- The item of a key; nil: there is none, or what there is is not one, and comes as it is.
local function read_item(q, key)
  local raw = call("HGET", q.items, key)
  local item = item_in(raw)
  return item, not item and raw or nil
end

local function write_item(q, key, item)
  call("HSET", q.items, key, pack_item(item))
end

local LETTER = { -- its fields, as `bury` packs them
  "string", "string", "string", "number", "string", "string", "string", "number", "string", "number",
  "string",
}

-- A letter, taken apart; nil: it is not one.
local function read_letter(body)
  local sound, letter = pcall(cmsgpack.unpack, body)
  if not sound or type(letter) ~= "table" then
    return nil
  end
  for n, kind in ipairs(LETTER) do
    if type(letter[n]) ~= kind then
      return nil
    end
  end
  return letter
end

-- A body as it goes out, and 1 if it is a letter: that is an array, and so is the letter that may be
-- in it. What should be a letter and cannot be read goes out as it is.
local function read_body(body, is_letter)
  local letter = is_letter == 1 and read_letter(body)
  if not letter then
    return body, 0
  end
  letter[3], letter[4] = read_body(letter[3], letter[4])
  return letter, 1
end

-- A queue counts the letters in it, by the queue that they are of, in the field "-" .. its name. A
-- letter is there, or not any more.
local function count_letter(q, item, by)
  local letter = item.letter == 1 and read_letter(item.body)
  if letter then
    call("HINCRBY", q.items, "-" .. letter[1], by)
  end
end

-- A lease as a claim gives it.
local function lease_of(key, item)
  local body, is_letter = read_body(item.body, item.letter)
  return {
    key, body, digits(item.rank), item.priority, item.tenant,
    item.deliveries, item.cancellations, is_letter,
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

-- Where the place begins in a member of the line, less one; nil: it is not one.
local function place_at(member)
  local at = 1
  if byte(member) ~= 0 then
    at = #member > 3 and 3 + byte(member, 2) * 256 + byte(member, 3) or #member
  end
  return at + 12 <= #member and at or nil
end

local function key_of(member)
  return sub(member, place_at(member) + 12)
end

local function tenant_of_member(member)
  return byte(member) == 0 and "" or "=" .. sub(member, 4, place_at(member))
end

-- The priority and the rank of a member.
local function read_place(member)
  local order, rank = struct.unpack(">I4I7", member, place_at(member) + 1)
  return 2147483647 - order, rank - BIAS
end

-- The first of what is ready of a tenant, or in a queue without tenants: its key, and its member of
-- the line. nil: there is nothing, or what is first is not a member. There is something, by the
-- counts; but what others have written there may not be.
local function head(q, tenant)
  local first
  if tenant then
    local prefix = prefix_of(tenant)
    first = call("ZRANGE", q.ready, "[" .. prefix, "+", "BYLEX", "LIMIT", 0, 1)[1]
    first = first and sub(first, 1, #prefix) == prefix and first
  else
    first = call("ZRANGE", q.ready, 0, 0)[1]
  end
  if first and place_at(first) then
    return key_of(first), first
  end
  return nil, first
end
