# frozen_string_literal: true

# A tour of what a client can do, with any example worker: ruby -Ilib examples/client.rb [service]

require_relative "../lib/sabir"

# Raised for the code 1001, because the client is told of it.
class DivisionByZero < Sabir::ApplicationError
  CODE = 1001
end

name = ARGV.fetch(0, "calc")
client = Sabir::Client.new(url: ENV.fetch("REDIS_URL", Sabir::Client::URL),
                           namespace: ENV.fetch("SABIR_NAMESPACE", "sabir"), errors: [DivisionByZero])
calc = client.service(name, timeout: 5)

puts "add(1, 2)        #{calc.add(1, 2)}"
puts "add(a: 1, b: 2)  #{calc.add(a: 1, b: 2)}"

begin
  calc.divide(1, 0)
rescue DivisionByZero => e
  puts "divide(1, 0)     #{e.class}: #{e.message}, #{e.data}"
end

begin
  calc.subtract(1, 2)
rescue Sabir::MethodNotFound => e
  puts "subtract(1, 2)   #{e.class}: #{e.message} (#{e.outcome})"
end

puts "notify note      #{client.notify(name, "note", ["hello"])}"
puts "many             #{client.many(name, [["add", [1, 2]], ["divide", { a: 1, b: 4 }], ["whoami"]])}"

client.close # and forget what the last call has read
