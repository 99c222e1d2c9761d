# frozen_string_literal: true

require "digest"

module Sabir
  # The Redis commands of each step, as data: Arrays of Strings. Pure.
  module Commands
    REPLY_EXPIRES_MS = 60_000
    LEASE_MS = 10_000
    HEARTBEAT_MS = 3_000
    TAKE_MS = 2_000
    DEAD_LETTERS = 1_000

    # The texts of protocol/scripts by their SHA-1 digests.
    SCRIPTS = %w[heartbeat goodbye].to_h do |name|
      text = File.binread(File.join(__dir__, "scripts", "#{name}.lua"))
      [Digest::SHA1.hexdigest(text).freeze, text.freeze]
    end.freeze
    HEARTBEAT, GOODBYE = SCRIPTS.keys

    module_function

    # The client appends requests, one element each [SABIR-CALL-1].
    def push(keys, elements) = [["RPUSH", keys.requests, *elements]]

    # The client looks at the first reply, as soon as there is one, and leaves it where it is [SABIR-WAIT-1].
    # @raise [ArgumentError] block_ms is less than a millisecond [SABIR-TRANSPORT-1]
    def wait(keys, token, block_ms)
      list = keys.reply(token)
      [["BLMOVE", list, list, "LEFT", "LEFT", seconds(block_ms)]]
    end

    # The client reads up to so many replies behind the first.
    def drain(keys, token, count) = [["LRANGE", keys.reply(token), "1", count.to_s]]

    # The client has read all replies that it wants [SABIR-WAIT-2].
    def forget(keys, token) = [["DEL", keys.reply(token)]]

    # The client has read this reply [SABIR-WAIT-2].
    def forget_one(keys, token, reply) = [["LREM", keys.reply(token), "1", reply]]

    # The client has read so many replies [SABIR-WAIT-2].
    def forget_first(keys, token, count) = [["LTRIM", keys.reply(token), count.to_s, "-1"]]

    # The client asks whether anybody serves [SABIR-ALIVE-1].
    def ask_alive(keys) = [["EXISTS", keys.alive]]

    # The client takes a request back, where no worker has it yet [SABIR-ALIVE-2, SABIR-QUEUE-1].
    # @param id [String, nil] to ask, too, whether it was delivered before; nil: it can't have been
    def take_back(keys, element, id = nil)
      [["LREM", keys.requests, "-1", element], *([["EXISTS", keys.attempts(id)]] if id)]
    end

    # The client looks whether it may judge [SABIR-ALIVE-4].
    def look_alive(keys) = [["WATCH", keys.alive], *ask_alive(keys), ["LLEN", keys.requests]]

    # The client may not.
    def unwatch = [["UNWATCH"]]

    # The client learns what it can about the calls for which it waits, unless `alive` came back meanwhile
    # [SABIR-ALIVE-4].
    # @param calls [Hash{String => String}] element by id
    # @param searches [Boolean] whether they are taken back
    def judge(keys, token, calls, searches)
      [["MULTI"],
       *calls.flat_map { |id, element| take_back(keys, element, id).drop(searches ? 0 : 1) },
       ["LRANGE", keys.reply(token), "0", "-1"],
       ["EXEC"]]
    end

    # Anybody asks for Redis's clock.
    def clock = [["TIME"]]

    # The worker renews its lease and takes one element [SABIR-LEASE-2, SABIR-WORKER-2].
    # @param lease_ends [Integer] ms of Redis's clock
    # @raise [ArgumentError] block_ms is less than a millisecond [SABIR-TRANSPORT-1]
    def take(keys, worker, lease_ends, block_ms)
      [["ZADD", keys.leases, lease_ends.to_s, worker],
       ["BLMOVE", keys.requests, keys.active(worker), "LEFT", "RIGHT", seconds(block_ms)]]
    end

    # The worker takes one element if there is one.
    def take_more(keys, worker) = [["LMOVE", keys.requests, keys.active(worker), "LEFT", "RIGHT"]]

    # The worker asks how many deliveries of an idempotent request were lost [SABIR-ATTEMPT-1].
    def ask_attempts(keys, id) = [["GET", keys.attempts(id)]]

    # The worker answers a call and acknowledges it, both or neither [SABIR-REPLY-3].
    def reply(keys, worker, token, reply, element)
      list = keys.reply(token)
      [["MULTI"],
       ["RPUSH", list, reply],
       ["PEXPIRE", list, REPLY_EXPIRES_MS.to_s],
       *acknowledge(keys, worker, element),
       ["EXEC"]]
    end

    # The worker has run a notification [SABIR-DEAD-4].
    def acknowledge(keys, worker, element) = [["LREM", keys.active(worker), "1", element]]

    # The worker keeps what it can neither answer nor run [SABIR-DEAD-3].
    def bury(keys, worker, letter, element)
      [["MULTI"],
       ["RPUSH", keys.dead, letter],
       ["LTRIM", keys.dead, "-#{DEAD_LETTERS}", "-1"],
       *acknowledge(keys, worker, element),
       ["EXEC"]]
    end

    # The worker is alive, and recovers what others left behind [SABIR-RECOVER-1].
    # @param judges [Boolean] whether it may recover [SABIR-RECOVER-7]
    def heartbeat(keys, worker, judges)
      [["EVALSHA", HEARTBEAT, "4", keys.requests, keys.leases, keys.alive, keys.dead, worker, judges ? "1" : "0"]]
    end

    # The worker looks what it holds [SABIR-LOST-3].
    def read_hand(keys, worker) = [["LRANGE", keys.active(worker), "0", "-1"]]

    # The worker gives back what it took last [SABIR-STOP-3].
    def give_back(keys, worker) = [["LMOVE", keys.active(worker), keys.requests, "RIGHT", "LEFT"]]

    # The worker's hand is empty and it ends [SABIR-STOP-5].
    def goodbye(keys, worker) = [["EVALSHA", GOODBYE, "3", keys.leases, keys.alive, keys.active(worker), worker]]

    # An EVALSHA as the EVAL for a server that does not know the script [SABIR-SCRIPT-1].
    def as_text((_, digest, *rest)) = ["EVAL", SCRIPTS.fetch(digest), *rest]

    # Zero would mean "for ever" to Redis.
    def seconds(block_ms)
      raise ArgumentError, "block_ms: expected at least 1, got #{block_ms.inspect}" unless block_ms >= 1

      return (block_ms.to_i / 1000).to_s if (block_ms % 1000).zero?

      format("%.3f", block_ms / 1000.0).sub(/\.?0+\z/, "")
    end
  end
end
