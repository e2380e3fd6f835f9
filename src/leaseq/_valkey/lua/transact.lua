-- Transactions: several steps on several queues, all or none.
--
-- All steps are planned before the first is taken: an outlook follows each key that they touch, as
-- plan.py has it. What an outlook had no objection to cannot fail. Everything that failed is told,
-- three values each: which step, why, and what there is to say about it.

local transacting = lazily(function()
  local kinds = {} -- how to take a step's arguments, plan it, and take it

  -- A key as it will be after the steps that are planned so far.
  local function look_at(outlook, q, key)
    local known = outlook.keys[key]
    if not known then
      local item = read_item(q, key)
      known = {
        there = item and true, leased = item and item.state == LEASED,
        succeeded = item and item.after == BUFFERED, tenant = item and item.tenant,
        done = not item and putting.is_duplicate(q, key),
      }
      outlook.keys[key] = known
    end
    return known
  end

  function kinds.put()
    local step = { queue = take_queue(), terms = putting.take_terms(), keys = {}, bodies = {} }
    take() -- nobody waits for room
    for n = 1, take_number() do
      step.keys[n], step.bodies[n] = take(), take()
    end

    function step.plan(outlook, q)
      for _, key in ipairs(step.keys) do
        local known = look_at(outlook, q, key)
        if known.there then
          local refused = putting.refusal(known.tenant, known.leased, step.terms)
          if refused then
            return refused[2], refused[4]
          end
          local buffers = known.leased and step.terms.if_in_flight == "buffer"
          known.succeeded = known.succeeded or buffers
        elseif not known.done then
          known.there, known.tenant = true, step.terms.tenant
          outlook.waiting = outlook.waiting + 1
          outlook.places = outlook.waiting
        end
      end
    end

    function step.act(q)
      local result = { "ok" }
      for n, key in ipairs(step.keys) do
        result[n + 1] = putting.put_item(q, key, step.bodies[n], step.terms)
      end
      return result
    end

    return step
  end

  local function finish(q, key, item)
    return { "ok", settling.ack_item(q, key, item) and 1 or 0 }
  end

  -- A step that ends a lease; `stays` says whether the item will still be there.
  local function ending(take_how, stays, act)
    return function()
      local step = { queue = take_queue() }
      local key, token = take(), take()
      local how = take_how and take_how()

      function step.plan(outlook, q)
        local item = find_held(q, key, token)
        if not item then
          return "no"
        end
        local known = look_at(outlook, q, key)
        if not known.leased then
          return "twice"
        end
        local buried = q.letters_index == 0 or queue_at(q.letters_index)
        known.leased = false
        known.there = known.succeeded or stays(q, item, how, buried)
        known.done = act == finish and q.dedupe_for > 0
        outlook.waiting = outlook.waiting + (known.there and 1 or 0)
      end

      function step.act(q)
        return act(q, key, find_leased(q, key, token), how)
      end

      return step
    end
  end

  kinds.ack = ending(nil, function()
    return false
  end, finish)

  kinds.release = ending(settling.take_release, function(q, item, how, buried)
    return not (how.counted and buried and moves.is_last_delivery(q, item))
  end, function(q, key, item, how)
    settling.release_item(q, key, item, how)
    return OK
  end)

  kinds.reject = ending(settling.take_reject, function(q, _, how, buried)
    return not buried or (how.reason == "undecodable" and q.letters_index == 0)
  end, function(q, key, item, how)
    settling.reject_item(q, key, item, how)
    return OK
  end)

  local function transact()
    local steps, outlooks, failed = {}, {}, { "failed" }
    local asked = {} -- the queues, in the order in which they come
    for n = 1, take_number() do
      steps[n] = kinds[take()]()
    end

    local function fail(step, why, what)
      local at = #failed
      failed[at + 1], failed[at + 2], failed[at + 3] = step, why, what or ""
    end

    for n, step in ipairs(steps) do
      local q = step.queue
      if not q then
        fail(n, "gone")
      else
        if not outlooks[q] then
          outlooks[q] = { keys = {}, waiting = 0, places = 0 }
          asked[#asked + 1] = q
        end
        outlooks[q].last = n
        local why, what = step.plan(outlooks[q], q)
        if why then
          fail(n, why, what)
        end
      end
    end
    for _, q in ipairs(asked) do
      local outlook = outlooks[q]
      local waiting = q.n_ready + q.n_delayed
      if outlook.places > 0 and waiting + outlook.places > q.max_size then
        fail(outlook.last, "full", digits(outlook.places))
      end
    end
    if failed[2] then
      return failed
    end
    local result = { "ok" }
    for n, step in ipairs(steps) do
      result[n + 1] = step.act(step.queue)
    end
    return result
  end

  return {
    transact = transact,
  }
end)
