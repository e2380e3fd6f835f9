-- Queues by name.
--
-- The hash of queues has, under a queue's name, the time when it was made, its number, its options
-- as they were given, and the name of its queue of dead letters; under "", how many were ever made.

-- The entry of a queue; nil: these bytes are not one.
local function entry_of(raw)
  local sound, created, number, options, letters = pcall(cmsgpack.unpack, raw)
  if sound and type(letters) == "string" then
    return { created = created, number = number, options = options, letters = letters }
  end
end

-- Walk over a part of a sorted set or a hash, from a place: "", or one that this returned. `scan` gives
-- the server's answer to ZSCAN or HSCAN from a cursor on, for some members. What is
-- there all the while is come upon once at least, and others may be. `visit` is called with each
-- member and its score or value; when it is late, the walk ends after one at least. Returns the place
-- to go on from; "": that was all. A place within an answer names the members that were visited: until
-- the next call some may go, and others change their places.
local function walk(from, count, scan, visit)
  local cursor_at, packed = from:match("^(%d+) (.*)$")
  local visited, is_visited = packed and packed ~= "" and cmsgpack.unpack(packed) or {}, {}
  for _, member in ipairs(visited) do
    is_visited[member] = true
  end
  cursor_at = cursor_at or "0"
  local step = scan(cursor_at, count)
  local members = step[2]
  for n = 1, #members, 2 do
    local member = members[n]
    if not is_visited[member] then
      visit(member, members[n + 1])
      visited[#visited + 1] = member
      if late() and n + 1 < #members then
        return cursor_at .. " " .. pack(visited)
      end
    end
  end
  return step[1] == "0" and "" or step[1] .. " "
end

-- The same for leases: `visit` is called with the key, the item and the deadline of each.
local function page_of_leases(q, from, visit)
  return walk(from, min(500, lot_size(q)), function(at, count)
    return call("ZSCAN", q.leased, at, "COUNT", count)
  end, function(member, deadline)
    local key = leased_key(member)
    local item = read_item(q, key)
    if item and item.state == LEASED then
      visit(key, item, tonumber(deadline))
    end
  end)
end
