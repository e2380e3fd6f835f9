-- Claims: leases are handed out, and the process is parked for those that are not there.

local claims = lazily(function()
  local SWEPT = 64 -- items that have fallen due a claim sees to first
  local PLACE_SIZE = 12 -- of a member of the line, before its key, where there are no tenants
  local LEASED_BYTE = string.char(LEASED)
  local BURIED = 1000 -- items that had outlived their time to live a claim buries on its way

  local function take_names()
    local names = {}
    for n = 1, take_number() do
      names[n] = take()
    end
    return names
  end

  local function take_request()
    local request = {
      count = take_number(), lease = take_span(), consumer = take(), patient = take() == "1",
      kind = take(),
    }
    if request.kind == "key" then
      request.key = take()
    elseif request.kind == "tenants" then
      request.own, request.steal = take_names(), take_names()
    end
    request.restricted = request.kind ~= "any"
    return request
  end

  local function has(names, name)
    for _, each in ipairs(names) do
      if each == name then
        return true
      end
    end
    return false
  end

  -- The key and the member of the next item of a tenant, or of a queue without tenants; false: there
  -- is nothing, where by the counts there is something.
  local function first_in_line(q, tenant)
    local key, member = head(q, tenant)
    if not member then
      recount(q)
      if tenant then
        schedule.clear(q, tenant)
      end
      return false
    end
    return key, nil, member
  end

  -- True if an item that is ready can be handed out. One that is in no line, or whose tenant's account
  -- is lost, is put right first.
  local function is_in_line(q, key, item)
    if claimable(q, item.tenant) then
      return true
    elseif not call("ZSCORE", q.ready, member_of(key, item)) then
      take_out(q, key, item)
      let_wait(q, key, item, now, "back", item.since)
    elseif q.fair and not schedule.find(q, item.tenant) then
      schedule.refile(q, item.tenant)
    end
    return claimable(q, item.tenant)
  end

  -- The key of the item that a request gets next, and the item if it was read, else its member of the
  -- line; nil: none is ready; false: it is to be looked for again.
  local function first_for(q, request)
    if request.key then
      local item = read_item(q, request.key)
      if item and item.state == READY and is_in_line(q, request.key, item) then
        return request.key, item
      end
      return nil
    end
    if q.n_ready == 0 then
      return nil
    end
    local tenant
    if not request.own then
      tenant = q.fair and schedule.next_turn(q)
    elseif q.fair then
      tenant = schedule.next_of(q, request.own) or schedule.next_of(q, request.steal)
    elseif not (has(request.own, "") or has(request.steal, "")) then
      return nil
    end
    if q.fair and not tenant then
      return nil
    end
    return first_in_line(q, tenant)
  end

  -- Make a lease of an item that is out of the line; the caller writes it and the lease's end.
  local function make_lease(q, item, request)
    q.changed = true
    q.token = max(q.token + 1, wall)
    q.handed_out = q.handed_out + 1
    q.n_leased = q.n_leased + 1
    item.state, item.rank, item.since, item.order = LEASED, q.token, now, 0
    item.deliveries = item.deliveries + 1
    item.process, item.consumer = process, request.consumer
  end

  local function hand_out(q, key, item, request, member)
    q.n_ready = max(0, q.n_ready - call("ZREM", q.ready, member or member_of(key, item)))
    if item.expires < NEVER then
      call("ZREM", q.timers, timer_member(key, item))
    end
    if q.fair then
      schedule.hand_out(q, item.tenant, request.restricted)
    end
    make_lease(q, item, request)
    write_item(q, key, item)
    call("ZADD", q.leased, now + request.lease, lease_member(key, item))
    return lease_of(key, item)
  end

  -- Hand out one item; nil: none is ready. Those that have outlived their time are buried, up to a
  -- limit; a process that parks then is woken immediately, if there is more.
  local function claim_one(q, request)
    for _ = 1, BURIED do
      local key, item, member = first_for(q, request)
      if key == nil and not member or late() then
        return nil
      end
      item = item or key and read_item(q, key)
      if key == false then
        work = work + 1 -- the counts are right now
      elseif member and not (item and item.state == READY and member_of(key, item) == member) then
        moves.expel(q, key, member)
      elseif item.expires > now then
        return hand_out(q, key, item, request, member)
      else
        take_out(q, key, item)
        moves.outlive(q, key, item)
      end
    end
  end

  -- Hand out the first items of a queue without tenants, several with a few commands. Most have
  -- never been handed out, and have nothing unusual: then the header is made without a look at it.
  local function claim_lot(q, request, leases, count)
    local popped = call("ZPOPMIN", q.ready, count)
    local keys, is_odd = {}, false
    for n = 1, #popped / 2 do
      keys[n] = sub(popped[2 * n - 1], PLACE_SIZE + 1)
    end
    if not keys[1] then
      recount(q) -- something has been taken away
      return
    end
    local raws = call("HMGET", q.items, unpack(keys))
    local deadline = now + request.lease
    local since_and_tail = struct.pack(">I7", now) .. pack_tail(NORMAL, 1, "", process)
    local flags, named = LEASED_BYTE, "" -- and what the header has more of than most
    if request.consumer ~= "" then
      flags, named = string.char(LEASED + MORE), pack({ 0, 0, 0, 0, 0, request.consumer })
    end
    local items, ends = {}, {}
    local n_items, n_leases, n_plain = 0, #leases, 0
    q.changed = true
    q.n_ready = q.n_ready - #keys
    for n, key in ipairs(keys) do
      local raw, lease, member = raws[n], nil, popped[2 * n - 1]
      local size = raw and #raw or 0
      work = work + 0.5 + size / BYTES
      local is_its = size >= HEADER_SIZE and byte(raw) % MORE == READY
        and sub(raw, 2, 8) == sub(member, 6, PLACE_SIZE)
      if is_its and byte(raw) == READY and sub(raw, 16, HEADER_SIZE) == FRESH then
        local token = max(q.token + 1, wall)
        q.token = token
        n_plain = n_plain + 1
        local place, body = struct.pack(">I7", token), sub(raw, HEADER_SIZE + 1)
        raw = flags .. place .. since_and_tail .. named .. body
        lease = { key, body, digits(token), NORMAL, "", 1, 0, 0 }
        ends[n_items + 2] = place .. key
      else
        local item = item_in(raw)
        if is_its and item and member_of(key, item) == member then
          if item.expires < NEVER then
            call("ZREM", q.timers, timer_member(key, item))
          end
          if item.expires > now then
            make_lease(q, item, request)
            raw, lease = pack_item(item), lease_of(key, item)
            ends[n_items + 2] = lease_member(key, item)
          else
            moves.outlive(q, key, item)
          end
        else
          is_odd = true
          moves.look_after(q, key)
        end
      end
      if lease then
        ends[n_items + 1] = deadline
        items[n_items + 1], items[n_items + 2] = key, raw
        n_items, n_leases = n_items + 2, n_leases + 1
        leases[n_leases] = lease
      end
    end
    q.handed_out, q.n_leased = q.handed_out + n_plain, q.n_leased + n_plain
    if items[1] then
      call("HSET", q.items, unpack(items))
      call("ZADD", q.leased, unpack(ends))
    end
    if is_odd then
      recount(q)
    end
  end

  -- Serve a request with the items that there are for it.
  local function serve(q, request)
    local leases = {}
    if q.paused > 0 then
      return leases
    end
    local anything = not request.restricted and not q.fair
    for _ = 1, BURIED do
      local lacks = request.count - #leases
      if lacks <= 0 or late() then
        return leases
      end
      if anything then
        if q.n_ready == 0 then
          return leases
        end
        claim_lot(q, request, leases, min(lacks, q.n_ready, lot_size(q)))
      else
        local lease = claim_one(q, request)
        if not lease then
          return leases
        end
        leases[#leases + 1] = lease
      end
    end
    return leases
  end

  -- The wants of a request that was not served.
  local function wants_of(q, request)
    if request.key then
      local item = read_item(q, request.key)
      if item and item.state == READY then
        return { "k" .. request.key, "c" .. item.tenant }
      end
      return { "k" .. request.key }
    end
    if not request.own then
      return { request.patient and "A" or "a" }
    end
    local wants = {}
    for _, tenant in ipairs(request.own) do
      wants[#wants + 1] = (request.patient and "T" or "t") .. tenant
    end
    for _, tenant in ipairs(request.steal) do
      wants[#wants + 1] = (request.patient and "S" or "s") .. tenant
    end
    return wants
  end

  -- Park the process for the wants of a request, unless it is parked for them by now.
  local function wait_for(q, request, held, parks, waits)
    for _, want in ipairs(wants_of(q, request)) do
      if not waits[want] then
        waits[want] = true
        local stamp = held[want]
        local made = not (stamp and waiters.is_parked(q, want, stamp)) and waiters.park(q, want)
        if made then
          parks[#parks + 1] = want
          parks[#parks + 1] = made
        end
      end
    end
  end

  local function claim()
    local index = take_number()
    local q = find_queue(index)
    local parks_too = take() == "1"
    local held, requests = {}, {}
    for _ = 1, take_number() do
      local want = take()
      held[want] = take()
    end
    for n = 1, take_number() do
      requests[n] = take_request()
    end
    if not q then
      return GONE
    end
    for _, request in ipairs(requests) do
      if #request.consumer > MOST_NAME then
        too_long("a consumer's name")
      end
    end
    if first_over(q.leased) or first_over(q.timers) then
      moves.sweep(q, SWEPT)
    end
    local parks, waits = {}, {}
    local result = { "ok", 0, parks }
    for n, request in ipairs(requests) do
      local leases = serve(q, request)
      result[n + 3] = leases
      if #leases < request.count and late() then
        result[1] = "cut" -- there may be more
      elseif #leases < request.count and parks_too then
        wait_for(q, request, held, parks, waits)
      end
    end
    if q.came then -- what fell due just now, and may have been handed out since
      local still = {}
      for at = 1, #q.came, 2 do
        local item = read_item(q, q.came[at])
        if item and item.state == READY then
          still[#still + 1], still[#still + 2] = q.came[at], q.came[at + 1]
        end
      end
      q.came = still
    end
    result[2] = total(q)
    q.wakes_next = q.n_ready > 0 -- the process that was woken for it may have been this one, in vain
    remember_claim(index, result)
    return result
  end

  return {
    claim = claim,
  }
end)
