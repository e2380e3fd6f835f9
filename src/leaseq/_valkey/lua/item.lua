-- An item as it is kept: a small header and the body, in one field of the queue's hash.
--
-- The header is an array that ends with its last unusual value, so that a fresh item's is the
-- fifteen bytes of its state, its place in line, and since when it has it. An item that is leased
-- has its token where one that waits has its rank. The body is opaque, or a packed letter.

local READY, DELAYED, LEASED = 0, 1, 2
local UPDATE, BUFFERED = 1, 2
local NORMAL = 3 -- priority
local USUAL = { nil, nil, nil, NORMAL, 0, "", "", 0, 0, 0, 0, 0, "", 0, 0 }

local function pack_item(item)
  local header = {
    item.state, item.rank, item.since, item.priority, item.deliveries, item.tenant, item.process,
    item.cancellations, item.expiries, item.expires == NEVER and 0 or item.expires, item.due,
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
  local expires = h[10]
  return {
    state = h[1],
    rank = h[2], -- in line, or the token
    since = h[3], -- ready or leased
    priority = h[4] or NORMAL,
    deliveries = h[5] or 0,
    tenant = h[6] or "",
    process = h[7] or "", -- which holds the lease
    cancellations = h[8] or 0,
    expiries = h[9] or 0, -- leases on it that ran out
    expires = (not expires or expires == 0) and NEVER or expires, -- when its time to live is over
    due = h[11] or 0,
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
    expiries = 0, expires = expires, due = 0, rest = 0, consumer = "", after = 0, letter = 0,
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
