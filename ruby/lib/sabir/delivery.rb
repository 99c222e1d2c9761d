# frozen_string_literal: true

require_relative "commands"
require_relative "connection"
require_relative "errors"
require_relative "messages"

module Sabir
  # One RPUSH of requests that nobody answers, and what comes of it.
  # @api private
  class Delivery
    MARGIN_S = 2.0 # how much longer than a command blocks Redis may take to answer
    LATE_S = 0.5 # how long after its time-out a call may still end; less than [SABIR-CALL-2] has
    # The error replies after which the same request may well be taken.
    TRANSIENT = /\A(?:LOADING|BUSY|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS)\b/

    # @param finish [Float] when the time-out passes, by {Clock.monotonic}
    # @param bound [Integer, nil] of the queue; nil: none
    # @yieldreturn [Array<String>] the elements, once there is a connection
    def initialize(client, keys, ids, finish, idempotent:, bound:, &elements)
      @client = client
      @keys = keys
      @ids = ids
      @finish = finish
      @idempotent = idempotent
      @bound = bound
      @elements = elements
      @waiting = ids.to_h { |id| [id, nil] } # and its element
      @outcomes = {}
      @unsure = [] # the ids of those that are being taken back
      @attempt = 0
    end

    # @return [Array<Object, SabirError>] the result or the error of each id; nil of a notification that is queued
    def run
      step until @waiting.empty? || left <= 0
      outcomes
    rescue Connection::Lost, Connection::Refused => e
      again?(e) ? retry : outcomes
    ensure
      part
    end

    private

    def part = @client.keep(@line)

    def left = @finish - Clock.monotonic

    def step
      @line = @client.ready(@line, [MARGIN_S, (left + LATE_S) / 3].min)
      act
      @attempt = 0
      @trouble = nil
    end

    # One write, and its answers.
    def act = @sent ? take_back : push

    # @param block [Float] seconds that the last of the commands may block
    # @raise [Connection::Lost]
    def exchange(commands, block = 0.0, &each)
      patience = [block + MARGIN_S, left + LATE_S].min
      @line.exchange(commands, patience > 0.001 ? patience : 0.001, &each)
    end

    def push
      exchange(pushing) { |reply| pushed(reply) }
      @ids.each { |id| finish(id, nil) } unless @excess # whoever serves, and when [SABIR-ALIVE-7]
    end

    # From here on it may be in the queue [SABIR-LOST-1].
    def pushing
      @waiting = @ids.zip(@elements.call).to_h
      @sent = true
      Commands.push(@keys, @waiting.values)
    end

    # @raise [Connection::Refused] it is not
    def pushed(reply)
      @sent = !reply.is_a?(Exception)
      length = Connection.value(reply)
      return unless @bound && length > @bound # [SABIR-QUEUE-1]

      @excess = Overloaded.new("the queue of #{@keys.service} is longer than #{@bound}")
    end

    # Takes those back that no worker has yet [SABIR-ALIVE-2, SABIR-QUEUE-1].
    def take_back
      error = @excess
      @excess = nil
      @unsure = @waiting.keys
      answers = []
      exchange(@waiting.flat_map { |id, element| Commands.take_back(@keys, element, (id if @idempotent)) }) do |reply|
        answers << reply
        next if @idempotent && answers.size == 1

        found, delivered = answers
        id = @unsure.shift
        found.eql?(1) ? finish(id, never_started(error, delivered || 0)) : not_found(id)
        answers.clear
      end
    end

    # A worker has it.
    def not_found(id) = finish(id, nil)

    # @param delivered [Integer, Exception] 0: it was never delivered
    # @return [SabirError] what became of one that was taken back: the error, unless that would say too much
    def never_started(error, delivered)
      delivered.eql?(0) ? error : WorkerLost.new("#{error.message}; it was delivered before, and may have run")
    end

    def finish(id, outcome)
      @waiting.delete(id)
      @outcomes[id] = outcome
    end

    # Waits a little, if that may help.
    def again?(error)
      @trouble = error.message
      give_up(@excess ? @waiting.keys : @unsure)
      return false if @waiting.empty? || in_vain?(error)

      sleep(Connection.pause(@attempt += 1).clamp(0, [left, 0].max))
      left.positive?
    end

    # What was being taken back may be gone [SABIR-ALIVE-6].
    def give_up(ids)
      ids.each { |id| finish(id, ConnectionLost.new("connection lost while it was taken back: #{@trouble}")) }
      @unsure = []
    end

    def in_vain?(error)
      return true if @sent # [SABIR-LOST-1]

      error.is_a?(Connection::Refused) && !TRANSIENT.match?(error.message) # [SABIR-LOST-5]
    end

    def outcomes
      error = failure unless @waiting.empty?
      @ids.map { |id| @outcomes.fetch(id, error) }
    end

    def failure
      return ConnectionLost.new("connection lost: #{@trouble}") if @sent

      NotQueued.new("not queued: #{@trouble || "no time left"}")
    end
  end

  # One RPUSH of calls, and the wait for their replies.
  # @api private
  class Calls < Delivery
    ASK_S = 3.0 # how often it asks whether anybody serves [SABIR-ALIVE-3]
    SETTLE_S = 10.0 # so long after an interruption nobody is judged [SABIR-ALIVE-5]
    SEARCHED = 10_000 # elements of the longest queue that is searched while it waits [SABIR-ALIVE-4]

    # @param own [Hash{Integer => Class}] the application's error classes by their codes
    # @param served [Hash{String => Boolean}] the client's: whether `alive` of a service existed when last asked for
    def initialize(client, keys, ids, finish, idempotent:, bound:, token:, own:, served:, &elements)
      super(client, keys, ids, finish, idempotent: idempotent, bound: bound, &elements)
      @token = token
      @own = own
      @served = served
      @forget = [] # what removes the reply that was read last
      @resumed = -Float::INFINITY # when the last interruption ended
    end

    private

    def act
      @resumed = Clock.monotonic if @resumed == Float::INFINITY
      return push unless @sent
      return take_back if @excess

      due.positive? ? look : ask
    end

    # A wait is sent behind it if somebody is expected to serve; what is taken back needs a connection that is not
    # blocked.
    def push
      commands = pushing + Commands.ask_alive(@keys) # [SABIR-ALIVE-1]
      @asked = Clock.monotonic
      wait = @served[@keys.service] ? block(ASK_S) : 0.0
      commands += wait_command(wait) if wait.positive?
      answers = 0
      exchange(commands, wait) do |reply|
        answered(answers += 1, reply)
        break if @excess && answers == 2 && wait.positive? # it is blocked: another one is made
      end
    end

    def answered(number, reply)
      case number
      when 1 then pushed(reply)
      when 2 then served(reply)
      else receive(reply)
      end
    end

    def served(reply) = asked(reply) || (@excess ||= unavailable)

    # @return [Boolean] whether somebody serves; a client that may not ask goes on as if somebody did
    def asked(reply) = @served[@keys.service] = !reply.eql?(0)

    def unavailable = ServiceUnavailable.new("no worker serves #{@keys.service}")

    # A worker has it, or this client may not take it back: it is waited for.
    def not_found(_id) = nil

    # @return [Float] seconds until it is time to ask whether anybody serves
    def due = @asked + ASK_S - Clock.monotonic

    # @param most [Float] seconds
    # @return [Float] seconds that a wait blocks
    def block(most = due) = [most, left].min.clamp(0.001, ASK_S)

    def wait_command(seconds) = Commands.wait(@keys, @token, (seconds * 1000).ceil)

    def look
      wait = block
      commands = @forget + wait_command(wait)
      @forget = []
      *forgotten, reply = exchange(commands, wait)
      receive(reply)
      forgotten.each { |removed| Connection.value(removed) } # or the same reply would come again and again
    end

    def receive(reply)
      bytes = Connection.value(reply)
      return unless bytes

      read(bytes)
      @forget = Commands.forget_one(@keys, @token, bytes.b) unless @waiting.empty? # [SABIR-WAIT-2]
    end

    def read(bytes)
      @read = true
      reply = Messages.decode_reply(bytes, own: @own)
      finish(reply.id, reply.error || reply.result) if reply && @waiting.key?(reply.id) # or late [SABIR-REPLY-4]
    end

    def ask
      @asked = Clock.monotonic
      served = asked(exchange(Commands.ask_alive(@keys)).first)
      judge unless served || @asked - @resumed < SETTLE_S
    end

    # Nobody serves any more [SABIR-ALIVE-4].
    def judge
      looks = exchange(Commands.look_alive(@keys))
      # It is back, or this client may not look.
      return exchange(Commands.unwatch) if asked(looks[1]) || looks.grep(Exception).any?

      searches = looks.last <= SEARCHED
      ids = @waiting.keys
      @unsure = searches ? ids : []
      seen = exchange(Commands.judge(@keys, @token, @waiting, searches)).last
      @unsure = []
      judged(ids, searches ? 2 : 1, seen) if seen.is_a?(Array) # or it is back, or this client may not judge
    end

    # @param width [Integer] so many answers there are for each
    def judged(ids, width, answers)
      *seen, replies = answers
      Array(replies).grep(String).each { |bytes| read(bytes.b) }
      ids.zip(seen.each_slice(width)) do |id, (*found, delivered)|
        lost = WorkerLost.new("the worker that had the request was lost")
        finish(id, found == [1] ? never_started(unavailable, delivered) : lost) if @waiting.key?(id)
      end
    end

    def again?(error)
      @resumed = Float::INFINITY if error.is_a?(Connection::Lost)
      super
    end

    # Its reply may still come, whatever was lost [SABIR-LOST-2].
    def in_vain?(error) = !@sent && super

    def failure
      return super unless @sent && @line.open?

      CallTimeout.new("no reply in time#{" (#{@trouble})" if @trouble}")
    end

    def part
      @line.send_ahead(Commands.forget(@keys, @token)) if @read && @line.open? # [SABIR-WAIT-2]
      super
    end
  end
end
