-- The moves of an item that leaves its lease, or falls due: the table of moves.py.
--
-- A value that was put while its key was leased is in the field of that key with a "+" before it: an
-- update of the leased item, or, buffered, its successor. The leased item's `after` says which.

local moves = lazily(function()
  local UNBURIED = 60000000 -- until an item that could not be buried is tried again, without a backoff

  -- A rest after so many deliveries: exponential, with full jitter.
  local function backoff(q, deliveries)
    if q.base <= 0 then
      return 0
    end
    if not seeded then
      math.randomseed(tonumber(ARGV[2]) % 2147483647)
      seeded = true
    end
    local longest = min(q.ceiling, q.base * q.factor ^ (deliveries - 1))
    return floor(math.random() * longest)
  end

  local function is_last_delivery(q, item)
    return item.deliveries >= q.max_deliveries
  end

  local function read_after(q, key)
    local raw = call("HGET", q.items, "+" .. key)
    local at, h = unpack_one(raw)
    return {
      buffered = h[1] == 1, priority = h[2], due = h[3], expires = h[4] == 0 and NEVER or h[4],
      letter = h[5], body = rest_of(raw, at),
    }
  end

  local function write_after(q, key, after)
    local expires = after.expires == NEVER and 0 or after.expires
    local header = { after.buffered and 1 or 0, after.priority, after.due, expires, after.letter }
    call("HSET", q.items, "+" .. key, pack(header) .. after.body)
  end

  -- Take out what was put while an item was leased; nil: nothing was.
  local function take_after(q, key, item)
    if item.after == 0 then
      return nil
    end
    local after = read_after(q, key)
    call("HDEL", q.items, "+" .. key)
    item.after = 0
    return after
  end

  local function succeed(q, key, item, after)
    q.n_buffered = q.n_buffered - 1
    count_letter(q, item, -1)
    local fresh = new_item(after.body, item.tenant, after.priority, after.expires)
    fresh.letter = after.letter
    let_wait(q, key, fresh, after.due, "back")
  end

  -- Put the item of an ended lease back in the line, or its successor in its stead.
  local function return_item(q, key, item, place, delay, since)
    local after = take_after(q, key, item)
    if after and after.buffered then
      q.superseded = q.superseded + 1
      succeed(q, key, item, after)
      return
    end
    if after then
      count_letter(q, item, -1)
      item.body, item.letter = after.body, after.letter
      item.priority = max(item.priority, after.priority)
    end
    item.rest, item.order = delay > 0 and now + delay or 0, 0
    let_wait(q, key, item, now + delay, place, since)
  end

  -- Keep a dead item as a letter; "kept": that cannot be done.
  local function bury(q, key, item, newest, reason, err, token)
    if q.letters_index == 0 then
      return reason == "undecodable" and "kept" or "dropped"
    end
    local letters = queue_at(q.letters_index)
    if not letters then
      return "kept"
    end
    letters.stamp = max(letters.stamp + 1, wall)
    letters.changed = true
    local record = pack({
      q.name, key, newest.body, newest.letter, token > 0 and digits(token) or "", reason, err,
      item.deliveries, item.tenant, item.priority, digits(wall),
    })
    local letter = new_item(record, "", NORMAL, NEVER)
    letter.letter = 1
    let_wait(letters, "s" .. format("%032x", letters.stamp), letter, now, "back")
    count_letter(letters, letter, 1)
    return "dead"
  end

  -- Give up an item that is in no line and under no lease.
  local function die(q, key, item, reason, err)
    q.changed = true
    local token = item.rank -- of one that waits it says whether it is at its old place
    if item.state ~= LEASED then
      token = (token < 0 and token > -OLD) and token + OLD or 0
    end
    local after = item.after ~= 0 and read_after(q, key)
    local newest = after and not after.buffered and after or item
    local fate = bury(q, key, item, newest, reason, err, token)
    events[#events + 1] = { q.index, "dead", key, token, reason, fate }
    if fate == "kept" then
      item.cancellations, item.expires = 0, NEVER
      return_item(q, key, item, "back", q.base < 0 and UNBURIED or q.ceiling)
      return
    end
    q[fate] = q[fate] + 1
    take_after(q, key, item)
    if after and after.buffered then
      succeed(q, key, item, after)
    else
      call("HDEL", q.items, key)
      count_letter(q, item, -1)
    end
  end

  -- Return an item, or give it up, whose lease has run out; `since` is when.
  local function lose(q, key, item, since)
    item.cancellations = 0
    if is_last_delivery(q, item) then
      die(q, key, item, "max_deliveries", "")
      return
    end
    item.expiries = item.expiries + 1
    local first = item.expiries == 1
    local delay = first and 0 or backoff(q, item.deliveries)
    return_item(q, key, item, first and "old" or "back", delay, since)
  end

  -- The time to live of an item that is taken out is over.
  local function outlive(q, key, item)
    q.outlived = q.outlived + 1
    die(q, key, item, "expired", "")
  end

  local function expire(q, key, deadline)
    local item = read_item(q, key)
    q.expired = q.expired + 1
    events[#events + 1] = { q.index, "expired", key, item.rank }
    end_lease(q, key, item)
    lose(q, key, item, deadline)
  end

  local function fall_due(q, key)
    local item = read_item(q, key)
    q.changed = true
    take_out(q, key, item)
    if item.expires <= now then
      outlive(q, key, item)
    else
      let_wait(q, key, item, now, "back", item.due)
    end
  end

  -- Do what has fallen due, the earliest first, `most` items at most; return their number.
  local function sweep(q, most)
    for done = 0, most - 1 do
      local leased, lease_over = first_over(q.leased)
      local timed, timer_over = first_over(q.timers)
      if leased and (not timed or lease_over <= timer_over) then
        expire(q, leased, lease_over)
      elseif timed then
        fall_due(q, timed)
      else
        return done
      end
    end
    return most
  end

  return {
    backoff = backoff, is_last_delivery = is_last_delivery, read_after = read_after,
    write_after = write_after, take_after = take_after, succeed = succeed,
    return_item = return_item, die = die, lose = lose, outlive = outlive, sweep = sweep,
  }
end)
